"""`foveal report`: the page of a run, or of several beside each other."""

from dataclasses import dataclass, field


@dataclass
class ReportConfig:
    """Make the report of a run from its folder, or one page that compares several runs."""

    runs: list[str] = field(default_factory=list)
    """Folders of runs."""
    output: str | None = None
    """File to write. Absent: report.html in the run's folder; of several runs comparison.html here."""


def run(config: ReportConfig) -> int:
    """Writes the page, and says where it is.

    Raises:
        ValueError, OSError: No run's folder, a damaged file in it, or a page that cannot be written.
    """
    from foveal.files import check_writable
    from foveal.report.page import write_comparison, write_report

    check_writable(config.output)
    if len(config.runs) == 1:
        written = write_report(config.runs[0], config.output)
    else:
        check_writable(output := config.output or 'comparison.html')
        written = write_comparison(config.runs, output)
    print(written)
    return 0
