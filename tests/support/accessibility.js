// Return a list of texts that describe accessibility problems of the page. The list is empty if there are none.
() => {
  const problems = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const words = (element) => `${element.tagName.toLowerCase()} ${element.id} ${element.textContent.trim().slice(0, 40)}`;
  const complain = (problem, element) => problems.push(element ? `${problem}: ${words(element)}` : problem);
  const name = (element) => {
    const by = (element.getAttribute("aria-labelledby") || "").split(/\s+/).filter(Boolean);
    const label = by.map((id) => document.getElementById(id)?.textContent || "").join(" ");
    return (label || element.getAttribute("aria-label") || "").trim();
  };
  // the document
  if (!document.documentElement.lang) complain("no language");
  if (!document.title.trim()) complain("no title");
  if (!document.querySelector('meta[name="viewport"]')) complain("no viewport");
  for (const landmark of ["main", "header"]) if (all(landmark).length !== 1) complain(`not one ${landmark}`);
  const outside = all("body > :not(header, main, footer, script, .skip)");
  for (const element of outside) complain("content outside of landmarks", element);
  const skip = document.querySelector("a.skip");
  if (!skip || !document.querySelector(skip.getAttribute("href"))) complain("no link to the content");
  const navigations = all("nav").map(name);
  if (navigations.some((one) => !one)) complain("a navigation without a name");
  if (new Set(navigations).size !== navigations.length) complain("two navigations with the same name");
  // headings
  let level = 0;
  for (const heading of all("h1, h2, h3, h4, h5, h6")) {
    const next = Number(heading.tagName[1]);
    if (next > level + 1) complain(`a heading of level ${next} after level ${level}`, heading);
    if (!heading.textContent.trim()) complain("an empty heading", heading);
    level = next;
  }
  if (all("h1").length !== 1) complain("not one first heading");
  // names of links, buttons and form fields
  for (const control of all("input:not([type=hidden]), select, textarea")) {
    if (![...control.labels].some((label) => label.textContent.trim()) && !name(control)) complain("no label", control);
  }
  for (const element of all("a, button, summary")) {
    if (!element.textContent.trim() && !name(element)) complain("no name", element);
  }
  for (const element of all("svg:not([aria-hidden]), progress, [role=region]")) {
    if (!name(element)) complain("no name", element);
  }
  for (const image of all("img")) if (!image.hasAttribute("alt")) complain("no alternative text", image);
  for (const element of all("[tabindex]")) if (element.tabIndex > 0) complain("changes the order of the focus", element);
  // tables
  for (const table of all("table")) {
    if (!table.caption?.textContent.trim()) complain("a table without a caption", table);
    const headers = [...table.querySelectorAll("th")];
    if (!headers.length || headers.some((header) => !header.scope)) complain("a header without a scope", table);
    const columns = table.tHead?.rows[0].cells.length;
    for (const row of table.tBodies[0].rows) {
      const cells = [...row.cells].reduce((sum, cell) => sum + cell.colSpan, 0);
      if (cells !== columns) complain(`${cells} cells below ${columns} headings`, row);
      if (!row.querySelector("th")) complain("a row without a header", row);
    }
  }
  // ids
  const ids = all("[id]").map((element) => element.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) complain(`two elements with the id ${id}`);
  for (const attribute of ["aria-labelledby", "aria-describedby"]) {
    for (const element of all(`[${attribute}]`)) {
      for (const id of element.getAttribute(attribute).split(/\s+/)) {
        if (!document.getElementById(id)) complain(`${attribute} names no element`, element);
      }
    }
  }
  // contrast of texts (WCAG 2.2, success criterion 1.4.3)
  const channels = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = channels(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let compared = 0;
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility() || element.closest("script, noscript, title, desc, option")) continue;
    const style = getComputedStyle(element);
    const colour = channels(element.closest("svg") ? style.fill : style.color);
    const [one, other] = [luminance(colour), luminance(background(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    compared += 1;
    if (ratio < (large ? 3 : 4.5)) complain(`contrast ${ratio.toFixed(2)}`, element);
  }
  if (compared < 5) complain("fewer than five texts were compared");
  // the page must not scroll horizontally
  if (document.documentElement.scrollWidth > innerWidth) {
    complain(`the page is ${document.documentElement.scrollWidth} pixels wide in a window of ${innerWidth}`);
  }
  return problems;
}
