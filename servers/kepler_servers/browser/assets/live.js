// Keep the element "live" of a page up to date: load the page again every few seconds, and replace the element's content.
(() => {
  const live = document.getElementById("live");
  const stopped = document.getElementById("live-stopped");
  if (!live) return;
  const seconds = Number(live.dataset.seconds);
  const again = () => setTimeout(update, 1000 * seconds);
  const update = async () => {
    // do not update a hidden page, or an element in which the user has selected text or set the focus
    if (document.hidden || live.contains(document.activeElement) || !getSelection().isCollapsed) return again();
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const part = page.getElementById("live");
        live.replaceChildren(...part.childNodes);
        live.dataset.seconds = part.dataset.seconds;
      }
      stopped.hidden = answer.ok;
    } catch {
      stopped.hidden = false;
    }
    if (live.dataset.seconds !== "0") again();
  };
  if (seconds > 0) again();
})();
