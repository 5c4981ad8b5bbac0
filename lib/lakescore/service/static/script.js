"use strict";
// What carries data-live is fetched again while it changes; without this script the page reloads itself.
for (const box of document.querySelectorAll("[data-live]")) {
  const pause = 1000 * Number(box.dataset.seconds);
  const status = () => box.querySelector("[data-status]")?.dataset.status;
  let shown = null;
  const followLog = () => { const log = box.querySelector(".log"); if (log) log.scrollTop = log.scrollHeight; };
  async function look() {
    const used = box.contains(document.activeElement), reads = used && document.activeElement.matches(".log");
    if (document.hidden || (used && !reads)) return;                       // nobody looks, or somebody is using what is there
    const answer = await fetch(box.dataset.live);
    if (answer.redirected || answer.status === 401) return location.reload();
    if (!answer.ok) return;
    const text = await answer.text();
    if (text === shown) return;
    const log = box.querySelector(".log"), follows = !log || log.scrollTop + log.clientHeight >= log.scrollHeight - 30, top = log?.scrollTop;
    const before = status();
    box.innerHTML = text;                                                  // made and escaped by the service
    shown = text;
    if (follows) followLog(); else box.querySelector(".log").scrollTop = top;
    if (reads) box.querySelector(".log").focus({ preventScroll: true });
    if (before !== status()) {
      const announced = document.getElementById("announced");
      if (announced) announced.textContent = status();
      if ("reload" in box.dataset && !["queued", "running"].includes(status())) location.reload();
    }
  }
  const again = () => setTimeout(() => look().catch(() => {}).finally(again), pause);
  followLog();
  again();
}
