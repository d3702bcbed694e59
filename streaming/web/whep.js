// A WHEP viewer (draft-ietf-wish-whep): the picture, its mesh condition and the sound over one peer connection.
// It knows nothing of the page: it tells by events what it has and what is wrong.

const CONNECT_MS = 12000;
const BACKOFF_MS = [500, 1000, 2000, 4000, 8000, 15000];

/** What can be wrong, and what to do about it. `wait` false: trying again would not help. */
export const TROUBLE = {
  webrtc: {
    title: "This browser has no WebRTC",
    text: "Open the page in a current Chrome, Edge, Firefox or Safari. If this is one, an extension or a policy has switched WebRTC off.",
    wait: false,
  },
  codec: {
    title: "This browser cannot decode the video",
    text: "The server sends H.264 and VP8, and this browser offers neither. Another browser, or this one with its media codecs installed, will do.",
    wait: false,
  },
  server: {
    title: "The server does not answer",
    text: "Check that liveanchor serve is still running at this address.",
    wait: true,
  },
  full: {
    title: "All places are taken",
    text: "The server has as many viewers as it allows. Close another viewer, or raise max_viewers.",
    wait: true,
  },
  refused: { title: "The server refused", text: "", wait: true },
  ice: {
    title: "The video cannot get through",
    text: "The page reached the server, but its video packets (UDP) did not arrive. A firewall, a VPN, or a container without its UDP ports published is the usual cause; a machine without any network is another.",
    wait: true,
  },
  lost: {
    title: "The connection was lost",
    text: "The server may have stopped, or the network may have changed.",
    wait: true,
  },
  stalled: {
    title: "The picture has stopped",
    text: "Connected, but no picture has come for a while. The server may be overloaded: look at its log.",
    wait: true,
  },
};

class Trouble extends Error {
  constructor(kind, detail = "", retryAfterMs = 0) {
    super(detail || TROUBLE[kind].title);
    Object.assign(this, { kind, detail, retryAfterMs });
  }
}

/**
 * Receives the show, and comes back by itself when it is lost.
 *
 * Events: "track" {role: "picture" | "condition" | "sound", track, receiver}, "connected", and "trouble" {kind, title, text, retryMs}
 * where `retryMs` is the time to the next attempt, null if there will be none.
 */
export class Viewer extends EventTarget {
  #url; #codec; #pc = null; #session = null; #attempt = 0; #timer = 0; #running = false; #generation = 0;

  constructor(url = "/whep", { codec = "" } = {}) {
    super();
    this.#url = url;
    this.#codec = codec.toLowerCase();
  }

  get peer() { return this.#pc; }

  start() {
    this.stop();
    this.#running = true;
    this.#connect();
  }

  stop() {
    this.#running = false;
    this.#hangUp();
  }

  /** Something outside found the stream broken: tell, and begin anew after a while. */
  fail(kind, detail = "") { this.#failed(new Trouble(kind, detail)); }

  /** The stream runs: the next loss starts with short waits again. */
  settle() { this.#attempt = 0; }

  async #connect() {
    const generation = ++this.#generation;
    try {
      await this.#open(() => generation === this.#generation && this.#running);
    } catch (error) {
      if (generation !== this.#generation) return;
      this.#failed(error instanceof Trouble ? error : new Trouble("refused", String(error.message || error)));
    }
  }

  async #open(current) {
    if (!("RTCPeerConnection" in window)) throw new Trouble("webrtc");
    const pc = (this.#pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" }));
    const roles = new Map();
    for (const [role, kind] of [["picture", "video"], ["condition", "video"], ["sound", "audio"]]) {
      const transceiver = pc.addTransceiver(kind, { direction: "recvonly" });
      if (kind === "video") this.#prefer(transceiver);
      roles.set(transceiver, role);
    }
    pc.addEventListener("track", ({ transceiver, track, receiver }) => {
      this.#tell("track", { role: roles.get(transceiver), track, receiver });
    });
    pc.addEventListener("connectionstatechange", () => {
      if (!current() || pc !== this.#pc) return;
      if (pc.connectionState === "connected") { clearTimeout(this.#timer); this.#tell("connected"); }
      if (pc.connectionState === "failed") this.#failed(new Trouble(pc.wasConnected ? "lost" : "ice"));
      pc.wasConnected ||= pc.connectionState === "connected";
    });
    await pc.setLocalDescription(await pc.createOffer());
    await gathered(pc);
    if (!current()) return;

    let response;
    try {
      response = await fetch(this.#url, {
        method: "POST", headers: { "Content-Type": "application/sdp" }, body: pc.localDescription.sdp,
      });
    } catch { throw new Trouble("server"); }
    if (response.status === 503) throw new Trouble("full", "", 1000 * Number(response.headers.get("Retry-After") || 0));
    if (response.status !== 201) throw new Trouble("refused", (await response.text()).split("\n")[0] || `status ${response.status}`);
    const session = new URL(response.headers.get("Location"), new URL(this.#url, location.href)).href;
    const answer = await response.text();
    if (!current()) { end(session); return; }
    this.#session = session;
    this.#timer = setTimeout(() => this.#failed(new Trouble("ice")), CONNECT_MS);
    await pc.setRemoteDescription({ type: "answer", sdp: answer });
  }

  /** Offer only the codecs that the server has, and only `codec` if one was asked for. */
  #prefer(transceiver) {
    const capable = RTCRtpReceiver.getCapabilities?.("video")?.codecs;
    if (!capable || !transceiver.setCodecPreferences) return;
    const wanted = this.#codec ? [`video/${this.#codec}`] : ["video/h264", "video/vp8"];
    const usable = capable.filter((codec) => wanted.includes(codec.mimeType.toLowerCase()));
    if (!usable.length) throw new Trouble("codec");
    transceiver.setCodecPreferences([...usable, ...capable.filter((codec) => codec.mimeType.toLowerCase() === "video/rtx")]);
  }

  #failed(trouble) {
    if (!this.#running) return;
    this.#hangUp();
    const { title, text, wait } = TROUBLE[trouble.kind];
    const step = BACKOFF_MS[Math.min(this.#attempt++, BACKOFF_MS.length - 1)];
    const retryMs = wait ? Math.max(step * (0.8 + 0.4 * Math.random()), trouble.retryAfterMs) : null;
    if (wait) this.#timer = setTimeout(() => this.#connect(), retryMs);
    this.#tell("trouble", { kind: trouble.kind, title, text: trouble.detail || text, retryMs });
  }

  #hangUp() {
    this.#generation++;
    clearTimeout(this.#timer);
    this.#pc?.close();
    this.#pc = null;
    if (this.#session) end(this.#session);
    this.#session = null;
  }

  #tell(name, detail = {}) { this.dispatchEvent(new CustomEvent(name, { detail })); }
}

/** Tell the server that nobody watches this session any more, even while the page goes away. */
function end(session) { fetch(session, { method: "DELETE", keepalive: true }).catch(() => {}); }

/** The server speaks no trickle ICE, so the offer waits for its candidates: half a second at most, since the server also learns
 *  this browser's address from its first check. */
function gathered(pc) {
  if (pc.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => { clearTimeout(timer); resolve(); };
    const timer = setTimeout(done, 500);
    pc.addEventListener("icegatheringstatechange", () => pc.iceGatheringState === "complete" && done());
  });
}
