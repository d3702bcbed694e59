// The page: shows what the viewer receives, says how it is doing and what is wrong.

import { Viewer } from "./whep.js";
import { Meters } from "./meters.js";

const STALL_MS = 3000;
const $ = (id) => document.getElementById(id);
const anchor = $("anchor"), condition = $("condition"), sound = $("sound");
const viewer = new Viewer("/whep", { codec: new URLSearchParams(location.search).get("codec") ?? "" });
const meters = new Meters(anchor, viewer, $);

// -- pictures and sound

const programme = new MediaStream();
let lastFrame = 0, connectedAt = 0, serverState = "";

viewer.addEventListener("track", ({ detail: { role, track } }) => {
  if (role === "condition") { condition.srcObject = new MediaStream([track]); return; }
  for (const old of programme.getTracks()) if (old.kind === track.kind) programme.removeTrack(old);
  programme.addTrack(track);
  if (anchor.srcObject !== programme) anchor.srcObject = programme;
  play();
});

viewer.addEventListener("connected", () => {
  connectedAt = performance.now();
  sound.disabled = false;
  show("connecting", "Waiting for the first picture", "The engine is warming up.");
});

viewer.addEventListener("trouble", ({ detail: { title, text, retryMs } }) => {
  connectedAt = lastFrame = 0;
  sound.disabled = true;
  anchor.srcObject = condition.srcObject = null;  // a closed stream would go on as black frames
  meters.clear();
  show("off", title, text, retryMs);
});

anchor.addEventListener("frame", () => {
  if (!connectedAt || anchor.videoWidth < 16) return;
  lastFrame = performance.now();
  if (document.body.dataset.state === "live") return;
  viewer.settle();
  show("live", "Live", "");
});

async function play() {
  for (const video of [anchor, condition]) {
    if (!video.srcObject) continue;
    try { await video.play(); } catch (error) {
      if (error.name !== "NotAllowedError") continue;  // AbortError: a newer track replaced this one
      setSound(false);
      show("connecting", "Ready to play", "This browser waits for your word before it plays.", null, "Play");
    }
  }
}

// Frames stop while the page is hidden: that is no stall.
setInterval(() => {
  if (document.hidden || !connectedAt) { lastFrame &&= performance.now(); return; }
  const since = performance.now() - Math.max(lastFrame, connectedAt);
  if (since < STALL_MS) return;
  if (serverState === "starting" || serverState === "failed") { connectedAt = performance.now(); return; }  // no picture has been painted yet
  viewer.fail("stalled");
}, 500);

// -- what it says

const TALLY = { live: "Live", connecting: "Connecting", off: "Off air" };
let countdown = 0;

function show(state, title, text, retryMs, action = "") {
  clearInterval(countdown);
  document.body.dataset.state = state;
  $("tally").textContent = TALLY[state];
  $("notice-title").textContent = title;
  $("notice-text").textContent = text;
  $("again").hidden = !retryMs && !action;
  $("again").textContent = action || "Try now";
  if (!retryMs) return;
  const until = performance.now() + retryMs;
  const tick = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    $("again").textContent = left > 0 ? `Try now (${left})` : "Trying…";
  };
  tick();
  countdown = setInterval(tick, 250);
}

$("again").addEventListener("click", () => {
  if (viewer.peer) { play(); return; }
  show("connecting", "Connecting", "Asking the server for the show.");
  viewer.start();
});

// -- sound and screen

function setSound(on) {
  anchor.muted = !on;
  sound.setAttribute("aria-pressed", String(on));
  $("sound-label").textContent = on ? "Sound is on" : "Sound on";
}

sound.addEventListener("click", () => { setSound(anchor.muted); play(); });
$("full").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("screen").requestFullscreen();  // not the video alone: the mark goes along
});
$("full").hidden = !document.fullscreenEnabled;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "m" && !sound.disabled) sound.click();
  if (event.key === "f" && !$("full").hidden) $("full").click();
});

// -- what the server says

const stats = new EventSource("/stats/stream");
stats.addEventListener("message", ({ data }) => {
  const snapshot = JSON.parse(data);
  serverState = snapshot.state;
  meters.server(snapshot);
  if (snapshot.trouble) show("off", "The engine could not start", snapshot.trouble);
  $("name").textContent = snapshot.avatar || "Anchor";
  $("mark").textContent = snapshot.provenance.statement;
  $("driven").textContent = [snapshot.source, snapshot.sound].filter(Boolean).join("  ·  ") || "No motion yet";
  $("driven").title = $("driven").textContent;
  const viewers = `${snapshot.viewers} ${snapshot.viewers === 1 ? "viewer" : "viewers"}`;
  const idle = snapshot.state === "idle" ? ["no motion is coming in"] : [];
  $("facts").textContent = [...idle, viewers, `on air for ${duration(snapshot.uptime_s)}`].join("  ·  ");
});

stats.addEventListener("error", () => {
  meters.server(null);
  $("facts").textContent = "\u00a0";
});

function duration(seconds) {
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

addEventListener("pagehide", () => viewer.stop());
addEventListener("pageshow", ({ persisted }) => persisted && viewer.start());

viewer.start();
