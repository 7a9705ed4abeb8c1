// The webcam: one frame at a time, on request or after one another.

const REASONS = {
  NotFoundError: "there is no webcam on this machine",
  OverconstrainedError: "there is no webcam on this machine",
  NotAllowedError: "the browser was not allowed to use the webcam: allow it for this page",
  NotReadableError: "the webcam is in use by another program",
};

export class Camera {
  #stream = null;

  constructor(video) {
    this.video = video;
  }

  get on() {
    return this.#stream !== null;
  }

  // Throws an Error whose message says what is wrong.
  async start() {
    if (!navigator.mediaDevices) {
      throw new Error("browsers give a webcam to pages of this machine only: open 127.0.0.1, by a tunnel if need be");
    }
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: true });
    } catch (error) {
      throw new Error(REASONS[error.name] ?? `the webcam cannot be used (${error.name})`);
    }
    this.video.srcObject = this.#stream;
    await this.video.play();
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.video.srcObject = null;
  }

  async frame() {
    const canvas = document.createElement("canvas");
    canvas.width = this.video.videoWidth;
    canvas.height = this.video.videoHeight;
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  }
}
