// A PNG of class ids with their colours, or of grey values: a canvas could write colours alone.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function crc(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

function chunk(name, content) {
  const out = new Uint8Array(content.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, content.length);
  out.set(new TextEncoder().encode(name), 4);
  out.set(content, 8);
  view.setUint32(content.length + 8, crc(out.subarray(4, content.length + 8)));
  return out;
}

async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// plane: Uint8Array of height * width; palette: [[r, g, b], ...] of the ids, null for grey values.
export async function png(plane, height, width, palette) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, palette ? 3 : 0, 0, 0, 0], 8);
  const rows = new Uint8Array(height * (width + 1)); // each row begins with its filter, 0
  for (let y = 0; y < height; y++) rows.set(plane.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const parts = [Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), chunk("IHDR", header)];
  if (palette) parts.push(chunk("PLTE", Uint8Array.from(palette.flat())));
  parts.push(chunk("IDAT", await deflated(rows)), chunk("IEND", new Uint8Array(0)));
  return new Blob(parts, { type: "image/png" });
}
