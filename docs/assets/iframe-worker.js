// Lets the search of the website work if its pages are opened as files, without a web server. Browsers start no
// web workers for such pages, so this class runs the script of a worker in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.inner = frame.contentWindow;
      this.waiting = [];
      this.inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = this.inner.document.createElement("script");
      script.src = url;
      script.onload = () => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      };
      this.inner.document.body.appendChild(script);
    }

    postMessage(data) {
      if (this.waiting !== null) {
        this.waiting.push(data);
      } else {
        this.inner.dispatchEvent(new MessageEvent("message", { data }));
      }
    }
  };
}
