// What the page does beyond HTML: a choice that shows itself, a text that is copied, a part
// that comes later, and a job that is followed while it runs.
// Everything works without it; then a running job's page loads itself anew.
"use strict";

for (const select of document.querySelectorAll("select[data-submits]")) {
  select.addEventListener("change", () => select.form.submit());
}

for (const button of document.querySelectorAll("button[data-copies]")) {
  // Only where the browser lets a page write to the clipboard: over HTTPS, or on this machine.
  if (!navigator.clipboard) { button.remove(); continue; }
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
    button.textContent = "Copied";
  });
}

for (const place of document.querySelectorAll("[data-fill]")) {
  // Made and escaped by the controller, as below. What does not come is missed by nobody: the doctor says it, too.
  fetch(place.dataset.fill).then((answer) => (answer.ok && !answer.redirected ? answer.text() : ""))
    .then((html) => { place.innerHTML = html; }).catch(() => {});
}

const live = document.getElementById("live");
const log = document.getElementById("log");
if (live && log) {
  const events = new EventSource(live.dataset.events);
  let seen = -1;
  // Made and escaped by the controller; the policy lets no script in it run.
  const show = (event) => { live.innerHTML = event.data; };
  events.addEventListener("line", (event) => {
    // After a lost connection everything is told from the beginning.
    const at = Number(event.lastEventId);
    if (at <= seen) { return; }
    seen = at;
    const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
    log.append(event.data + "\n");
    while (log.childNodes.length > 2000) { log.firstChild.remove(); }
    if (isAtEnd) { log.scrollTop = log.scrollHeight; }
  });
  events.addEventListener("state", show);
  events.addEventListener("end", (event) => { show(event); });
  events.addEventListener("error", () => {
    // The job has ended, or the controller is away: the browser tries again by itself in the second case.
    if (!live.querySelector(".verdict.busy")) { events.close(); }
  });
}
