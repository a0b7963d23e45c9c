// Reads recorded streams of events with eventsource-parser, as applications do that don't run in a browser.
//
//     node events.mjs DIRECTORY
//
// Each file of the directory is the content of a stream. It is read whole, and in small pieces, as it might come from
// a network. Prints one JSON object: for each file's name its events, each `[event, data, id]`.

import { createParser } from 'eventsource-parser';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const [directory] = process.argv.slice(2);

function read(stream, size) {
  const events = [];
  // As `EventSource` does: a byte order mark goes only where the stream begins with it.
  const decoder = new TextDecoder('utf-8', { fatal: true });
  const parser = createParser({
    onEvent: ({ event, data, id }) => events.push([event ?? 'message', data, id ?? null]),
    onError: (error) => { throw error; },
  });
  for (let at = 0; at < stream.length; at += size) {
    parser.feed(decoder.decode(stream.subarray(at, at + size), { stream: true }));
  }
  parser.feed(decoder.decode());
  return events;
}

const streams = {};
for (const name of readdirSync(directory)) {
  const stream = readFileSync(join(directory, name));
  const events = read(stream, stream.length);
  const small = Math.max(1, Math.floor(stream.length / 5_000));
  for (const size of [small, 2 * small + 1, 1460]) {
    if (JSON.stringify(read(stream, size)) !== JSON.stringify(events)) throw new Error(`${name} reads otherwise in pieces of ${size}`);
  }
  streams[name] = events;
}
console.log(JSON.stringify(streams));
