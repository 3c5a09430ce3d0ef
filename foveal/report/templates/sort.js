for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstChild.addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    const cell = row => row.cells[column];
    const value = row => head.className === 'number' ? Number(cell(row).dataset.value ?? NaN) : cell(row).textContent;
    const order = (a, b) => typeof a === 'string' ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
    // what has no value comes last either way
    const rows = [...body.rows].map(row => [value(row), row]);
    const known = rows.filter(([x]) => x === x).sort(([a], [b]) => up ? order(a, b) : order(b, a));
    body.append(...known.map(([, row]) => row), ...rows.filter(([x]) => x !== x).map(([, row]) => row));
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  }));
}
