// What a page paints, and when; run before the page's own modules. Times in ms since 1970.
(() => {
  const clock = () => performance.timeOrigin + performance.now();
  const probe = (window.probe = { paints: [], sets: [], bytes: 0, moved: 0 });
  let app;
  addEventListener("pointermove", (event) => (probe.moved = performance.timeOrigin + event.timeStamp), true);
  Object.defineProperty(window, "libstream", {
    get: () => app,
    set: (made) => {
      app = made;
      const { link } = app;
      const [paint, send, text, binary] = ["paint", "send", "text", "binary"].map((name) => link[name].bind(link));
      link.paint = (topic, held) => {
        const header = held.owed;
        paint(topic, held);
        if (!header) return;
        probe.paints.push([topic, header.v, header.gen, header.ts, clock(), Boolean(header.final), header.shape.join() !== "0", Boolean(header.exact)]);
      };
      link.send = (message) => {
        if (message.type === "set") probe.sets.push([message.gen, probe.moved, clock()]);
        send(message);
      };
      link.text = (message) => text(message);
      link.binary = (buffer) => ((probe.bytes += buffer.byteLength), binary(buffer));
    },
  });
})();
