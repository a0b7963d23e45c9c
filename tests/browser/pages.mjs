// Drives pages in one headless Chromium, and proxies in front of what they read, by orders from a test.
//
//     node pages.mjs
//
// Reads orders from stdin and prints an answer to each, one JSON object a line: {"n":1,"do":"open",…} is answered by
// {"n":1,"result":…} or {"n":1,"error":"…"}. Ends with its stdin.

import http from 'node:http';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const PATIENCE_MS = 20_000;
const contexts = new Map(), pages = new Map(), proxies = new Map();

const starting = chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    // A host whose plain HTTP is no secure context, as that of 127.0.0.1 is.
    '--host-resolver-rules=MAP insecure.example 127.0.0.1'],
});

/** A context is a browser profile: its pages share cookies, channels and locks. */
async function contextOf(name) {
  const browser = await starting;
  if (!contexts.has(name)) contexts.set(name, browser.newContext());
  return contexts.get(name);
}

/** Runs in the page before its scripts: an old browser, or one that refuses. */
const LACKS = {
  channels: () => { delete self.BroadcastChannel; },
  locks: () => { Object.defineProperty(Navigator.prototype, 'locks', { value: undefined }); },
  permission: () => { LockManager.prototype.request = () => Promise.reject(new DOMException('not here', 'SecurityError')); },
};

/**
 * A proxy that passes on what comes. `refuse`: 503 to each stream of events; `down`: 503 to everything; `buffer`: the
 * answer to a stream is passed on once it is whole.
 */
async function startProxy(to) {
  const proxy = { mode: 'pass', answers: new Set() };
  const server = http.createServer((request, response) => {
    const isStream = request.headers.accept === 'text/event-stream';
    if (proxy.mode === 'down' || (proxy.mode === 'refuse' && isStream)) {
      response.writeHead(503).end('not now');
      return;
    }
    proxy.answers.add(response);
    response.on('close', () => proxy.answers.delete(response));
    const { method, url: path, headers } = request;
    const upstream = http.request(new URL(path, to), { method, headers, agent: false }, async (answer) => {
      answer.on('error', () => response.destroy());
      const pass = () => response.writeHead(answer.statusCode, answer.headers);
      if (!isStream || proxy.mode !== 'buffer') {
        answer.pipe(pass());
        response.flushHeaders();
        return;
      }
      const parts = [];
      answer.on('data', (part) => parts.push(part));
      answer.on('end', () => pass().end(Buffer.concat(parts)));
    });
    upstream.on('error', () => response.destroy());
    response.on('close', () => upstream.destroy());
    request.pipe(upstream);
  });
  await new Promise((done) => { server.listen(0, '127.0.0.1', done); });
  proxy.port = server.address().port;
  return proxy;
}

const orders = {
  async open({ page: name, context = name, url, lacks, clock, given }) {
    const page = await (await contextOf(context)).newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    const errors = [];
    page.on('pageerror', (error) => errors.push(error.message));
    pages.set(name, { page, errors });
    if (clock) await page.clock.install();
    if (lacks) await page.addInitScript(LACKS[lacks]);
    await page.addInitScript((value) => { self.given = value; }, given);
    await page.goto(url, { waitUntil: 'load' });
  },
  /** Waits until an expression is true in the page. */
  async wait({ page, code, ms = PATIENCE_MS }) {
    const { page: there, errors } = pages.get(page);
    try {
      await there.waitForFunction(code, undefined, { timeout: ms, polling: 20 });
    } catch {
      const seen = await there.evaluate('JSON.stringify({ seen: self.seen, states: self.states, told: self.told })');
      throw new Error(`${page}: never ${code}: ${seen} ${errors}`);
    }
  },
  value: ({ page, code }) => pages.get(page).page.evaluate(code),
  errors: ({ page }) => pages.get(page).errors,
  close: ({ page }) => pages.get(page).page.close(),
  /** As if the computer had slept for so long: timers that are due fire once. */
  forward: ({ page, ms }) => pages.get(page).page.clock.fastForward(ms),
  async freeze({ page: name, state }) {
    const { page } = pages.get(name);
    const session = await page.context().newCDPSession(page);
    await session.send('Page.setWebLifecycleState', { state });
    await session.detach();
  },
  async proxy({ proxy: name, to }) {
    const proxy = await startProxy(to);
    proxies.set(name, proxy);
    return `http://127.0.0.1:${proxy.port}`;
  },
  /** Cuts what is under way, and goes by another mode from now on. */
  mode({ proxy: name, mode }) {
    const proxy = proxies.get(name);
    proxy.mode = mode;
    for (const response of proxy.answers) response.destroy();
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  (async () => orders[order.do](order))().then(
    (result) => console.log(JSON.stringify({ n: order.n, result: result ?? null })),
    (error) => console.log(JSON.stringify({ n: order.n, error: `${order.do}: ${error.message}` })),
  );
}
await (await starting).close();
process.exit();
