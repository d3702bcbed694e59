// Measures what this browser sees and joins it with what the server measured. Every figure says whose it is.

const MINUTE_MS = 60000;

export class Meters {
  #video; #viewer; #$; #frames = []; #before = null; #server = null; #drops = []; #ours = { network: null, browser: null };

  /** Counts the frames of `video` and dispatches "frame" on it for each; `$` finds the page's outputs by id. */
  constructor(video, viewer, $) {
    this.#video = video;
    this.#viewer = viewer;
    this.#$ = $;
    this.#count();
    setInterval(() => this.#measure(), 1000);
  }

  /** The server's snapshot (`/stats`), twice a second; null when it no longer answers. */
  server(snapshot) {
    this.#server = snapshot;
    if (snapshot) return;
    this.#$("gear").hidden = true;
    this.#drops = [];
    for (const id of ["work", "drops"]) this.#$(id).textContent = "–";
    for (const id of ["rate-more", "work-more", "drops-more"]) this.#$(id).textContent = "\u00a0";
  }

  /** The connection is gone: no figure outlives it. */
  clear() {
    this.#frames = [];
    this.#before = null;
    this.#ours = { network: null, browser: null };
    for (const id of ["rate", "delay", "delay-server", "delay-network", "delay-browser"]) this.#$(id).textContent = "–";
    for (const part of ["server", "network", "browser"]) this.#$(`bar-${part}`).style.flexGrow = 0;
  }

  #count() {
    const seen = (now, count) => {
      if (count === this.#frames.at(-1)?.count) return;
      this.#frames.push({ now, count });
      this.#video.dispatchEvent(new Event("frame"));
    };
    if ("requestVideoFrameCallback" in HTMLVideoElement.prototype) {
      // A busy page gets fewer callbacks than there were frames: presentedFrames counts them all.
      const next = (now, { presentedFrames }) => { seen(now, presentedFrames); this.#video.requestVideoFrameCallback(next); };
      this.#video.requestVideoFrameCallback(next);
    } else {
      setInterval(() => seen(performance.now(), this.#video.getVideoPlaybackQuality?.().totalVideoFrames ?? 0), 100);
    }
  }

  async #measure() {
    const now = performance.now(), $ = this.#$;
    this.#frames = this.#frames.filter((frame) => frame.now > now - 3000);
    const [first, last] = [this.#frames[0], this.#frames.at(-1)];
    if (this.#frames.length > 5) $("rate").textContent = ((1000 * (last.count - first.count)) / (last.now - first.now)).toFixed(1);
    await this.#ask();
    this.#showDelay();
    this.#showServer(now);
  }

  /** Network and browser delay and losses, from the peer connection's own statistics. */
  async #ask() {
    const pc = this.#viewer.peer;
    if (pc?.connectionState !== "connected") return;
    const receiver = pc.getTransceivers()[0].receiver;
    let video = null, pair = null;
    (await pc.getStats(receiver.track)).forEach((report) => {
      if (report.type === "inbound-rtp") video = report;
      if (report.type === "candidate-pair" && report.nominated) pair = report;
    });
    if (pair?.currentRoundTripTime !== undefined) this.#ours.network = 500 * pair.currentRoundTripTime;
    const before = this.#before;
    if (video && before && video.framesDecoded > before.framesDecoded) {
      const emitted = video.jitterBufferEmittedCount - before.jitterBufferEmittedCount;
      const waited = emitted ? (video.jitterBufferDelay - before.jitterBufferDelay) / emitted : 0;
      const decoding = (video.totalDecodeTime - before.totalDecodeTime) / (video.framesDecoded - before.framesDecoded);
      if (Number.isFinite(waited + decoding)) this.#ours.browser = 1000 * (waited + decoding);
    }
    this.#before = video;
  }

  #showDelay() {
    const parts = { server: this.#server?.delay_ms?.p50 ?? null, ...this.#ours };
    if (this.#viewer.peer?.connectionState !== "connected") return;
    for (const [name, ms] of Object.entries(parts)) {
      this.#$(`delay-${name}`).textContent = ms === null ? "–" : ms < 1 ? "<1" : Math.round(ms);
      this.#$(`bar-${name}`).style.flexGrow = ms ?? 0;
    }
    const known = Object.values(parts).every((ms) => ms !== null);
    this.#$("delay").textContent = known ? Math.round(parts.server + parts.network + parts.browser) : "–";
  }

  /** Drops are shown for the last minute: what happened while the engine warmed up is not news for ever. */
  #showServer(now) {
    const $ = this.#$, snapshot = this.#server;
    if (!snapshot) return;
    const painted = snapshot.fps.painted;
    $("rate-more").textContent = `${painted.toFixed(1)} of ${snapshot.fps.target.toFixed(0)} painted by the model`;
    const stages = Object.entries(snapshot.stages_ms).sort((a, b) => b[1] - a[1]);
    $("work").textContent = stages.length ? Math.round(stages.reduce((sum, [, ms]) => sum + ms, 0)) : "–";
    $("work-more").textContent = stages.slice(0, 3).map(([name, ms]) => `${name} ${Math.round(ms)}`).join(" · ") || "\u00a0";
    const governor = snapshot.governor;
    $("gear").hidden = !governor;
    if (governor) $("gear").textContent = `gear ${governor.rung + 1} of ${governor.rungs}: ${governor.gear}`;
    if (governor?.last) $("gear").title = governor.last.reason;
    const totals = { ...snapshot.drops, "repeated": snapshot.frames.starved };
    if (this.#before) totals["lost on the way"] = this.#before.packetsLost;
    if (this.#before) totals["in the browser"] = this.#before.framesDropped;
    this.#drops.push({ now, totals });
    while (this.#drops[0].now < now - MINUTE_MS) this.#drops.shift();
    const oldest = this.#drops[0].totals;
    const recent = Object.entries(totals)
      .map(([reason, count]) => [reason, count - (oldest[reason] ?? count)])
      .filter(([, count]) => count > 0)
      .sort((a, b) => b[1] - a[1]);
    $("drops").textContent = recent.reduce((sum, [, count]) => sum + count, 0);
    const reasons = recent.map(([reason, count]) => `${count} ${reason}`).join(" · ");
    $("drops-more").textContent = $("drops-more").title = reasons || "nothing lost";
  }
}
