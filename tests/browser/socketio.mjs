// Drives the real socket.io client in headless Chromium against a Flask-SocketIO application, through the gateway.
//
//     node socketio.mjs URL --verified-by gateway|application [--servers N]
//
// Prints a line of JSON for each step. After `{"step":"reload"}` and `{"step":"shutdown"}` it waits for a line on its
// standard input: whoever started it has reloaded, or is about to end, the gateway. Exits 0, or says on stderr what was
// not so and exits 1. Waits for conditions only; each has PATIENCE_MS.

import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';

const PATIENCE_MS = 20_000;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { 'verified-by': { type: 'string' }, servers: { type: 'string', default: '1' } },
});
const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const say = (step, more = {}) => console.log(JSON.stringify({ step, ...more }));

async function told(step) {
  say(step);
  await lines.next();
}

function hold(what, fact) {
  if (!fact) throw new Error(what);
}

/** In the page: `live.NAME` is a socket and what has happened to it. */
function prepare() {
  window.live = {};
  window.start = (name, options) => {
    const socket = io('/ws', { query: { token: window.TOKEN }, forceNew: true, reconnectionDelay: 50, ...options });
    const it = { socket, hellos: [], ticks: [], kpis: [], lost: [], transports: [] };
    window.live[name] = it;
    const transport = () => it.transports.push(socket.io.engine.transport.name);
    // The engine opens before the namespace connects, and may upgrade before that, too.
    socket.io.on('open', () => {
      transport();
      socket.io.engine.on('upgrade', transport);
    });
    socket.on('hello', (said) => it.hellos.push(said));
    socket.on('disconnect', (reason) => it.lost.push(reason));
    socket.on('connect_error', (error) => it.lost.push(`connect_error: ${error.message}`));
    socket.on('metric_update', (update) => (update.kpi ? it.kpis.push(update.kpi) : it.ticks.push(update.tick)));
  };
  window.look = (name) => {
    const { hellos, ticks, kpis, lost, transports, socket } = window.live[name];
    return { hellos, ticks, kpis, lost, transports, id: socket.id ?? null };
  };
}

async function until(page, what, name, condition, argument) {
  try {
    await page.waitForFunction(
      ([name, text, argument]) => new Function('it', 'argument', `return (${text})(it, argument)`)(window.live[name], argument),
      [name, condition.toString(), argument], { timeout: PATIENCE_MS });
  } catch (error) {
    const seen = await page.evaluate((name) => window.look(name), name);
    throw new Error(`${what}: ${error.message.split('\n')[0]}\n${JSON.stringify(seen)}`);
  }
  return page.evaluate((name) => window.look(name), name);
}

const hasTicks = (it, count) => it.hellos.length > 0 && it.ticks.length >= count;
/** Holds that no update was lost or came twice. */
function gapless(what, ticks) {
  const gap = ticks.findIndex((tick, at) => at > 0 && tick !== ticks[at - 1] + 1);
  hold(`${what}: a gap in ${ticks}`, gap < 0);
}

const ask = (page, name, question) => page.evaluate(
  ([name, question]) => window.live[name].socket.timeout(10_000).emitWithAck('ask', question), [name, question]);

async function connects(page, name, how, transports) {
  await page.evaluate(([name, how]) => window.start(name, how), [name, how]);
  if (transports.length > 1) await until(page, `${name} upgrades`, name, (it) => it.transports.includes('websocket'));
  const seen = await until(page, `${name} gets updates`, name, hasTicks, 8);
  hold(`${name}: by ${seen.transports}`, JSON.stringify(seen.transports) === JSON.stringify(transports));
  hold(`${name}: lost ${seen.lost}`, seen.lost.length === 0);
  gapless(name, seen.ticks);
  const [hello] = seen.hellos;
  hold(`${name}: ${JSON.stringify(hello)}`, hello.tenant === 'acme' && hello.verified_by === options['verified-by']);
  const { answer, server } = await ask(page, name, name);
  hold(`${name}: answered ${answer} by ${server}`, answer === name && server === hello.server);
  say(name, { ticks: seen.ticks.length, transports: seen.transports, server });
  return server;
}

async function run(url) {
  const browser = await chromium.launch({
    executablePath,
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  });
  try {
    const open = async (tenant) => {
      const page = await (await browser.newContext()).newPage();
      page.setDefaultTimeout(PATIENCE_MS);
      await page.goto(`${url}/?tenant=${tenant}`, { waitUntil: 'load' });
      await page.evaluate(prepare);
      return page;
    };
    const page = await open('acme');
    await connects(page, 'polling', { transports: ['polling'] }, ['polling']);
    await connects(page, 'websocket', { transports: ['websocket'] }, ['websocket']);
    await connects(page, 'upgraded', {}, ['polling', 'websocket']);

    // As many visitors as it takes to meet every server, each by both ways.
    const servers = new Set();
    for (let turn = 0; servers.size < Number(options.servers) && turn < 30; turn += 1) {
      const visitor = await open('acme');
      servers.add(await connects(visitor, `visitor${turn}`, {}, ['polling', 'websocket']));
      await visitor.context().close();
    }
    say('servers', { servers: [...servers].sort() });
    hold(`only ${[...servers]} answered`, servers.size >= Number(options.servers));

    // A room is a tenant's: the others hear nothing.
    const other = await open('beta');
    await other.evaluate(() => window.start('beta', { transports: ['websocket'] }));
    await until(other, 'beta is there', 'beta', hasTicks, 1);
    const ordered = await page.evaluate(() => fetch(`/orders?token=${window.TOKEN}`, { method: 'POST' }).then((r) => r.status));
    hold(`an order was answered with ${ordered}`, ordered === 200);
    for (const name of ['polling', 'websocket', 'upgraded']) {
      const { kpis } = await until(page, `${name} hears of the order`, name, (it) => it.kpis.length > 0);
      hold(`${name}: ${JSON.stringify(kpis)}`, kpis.length === 1 && kpis[0].tenant === 'acme' && kpis[0].orders_today === 1);
    }
    const heard = await until(other, 'beta goes on', 'beta', (it, n) => it.ticks.length >= n, 8);
    hold(`beta heard of acme: ${JSON.stringify(heard.kpis)}`, heard.kpis.length === 0);
    say('rooms');

    const large = 'x'.repeat(700_000);
    for (const name of ['polling', 'upgraded']) hold(`${name}: a large message`, (await ask(page, name, large)).answer === large);
    say('large');

    // Away and back, by intention and by accident.
    for (const [name, leave] of [
      ['upgraded', (it) => { it.socket.disconnect(); it.socket.connect(); }],
      ['websocket', (it) => it.socket.io.engine.close()],
    ]) {
      const before = await page.evaluate((name) => window.look(name), name);
      await page.evaluate(([name, text]) => new Function('it', `(${text})(it)`)(window.live[name]), [name, leave.toString()]);
      await until(page, `${name} comes back`, name, (it, hellos) => it.hellos.length > hellos, before.hellos.length);
      const after = await until(page, `${name} gets updates again`, name, (it, n) => it.ticks.length > n, before.ticks.length + 5);
      hold(`${name}: the same session`, after.id !== before.id);
      await page.evaluate((name) => { window.live[name].ticks.length = 0; window.live[name].lost.length = 0; }, name);
    }
    say('reconnected');

    await told('reload');
    for (const name of ['polling', 'websocket', 'upgraded']) {
      const { length } = (await page.evaluate((name) => window.look(name), name)).ticks;
      const after = await until(page, `${name} goes on after a reload`, name, (it, n) => it.ticks.length > n, length + 15);
      hold(`${name}: a reload was noticed: ${after.lost}`, after.lost.length === 0);
      gapless(`${name} over a reload`, after.ticks);
      hold(`${name}: answers`, (await ask(page, name, 'still')).answer === 'still');
    }
    say('reloaded');

    await page.evaluate(() => Object.values(window.live).forEach(({ socket }) => socket.io.reconnection(false)));
    await other.evaluate(() => window.live.beta.socket.io.reconnection(false));
    // Nothing of theirs is left that could hold the gateway up.
    await page.evaluate(() => window.live.polling.socket.disconnect());
    await told('shutdown');
    for (const [at, name] of [[page, 'websocket'], [page, 'upgraded'], [other, 'beta']]) {
      const { lost } = await until(at, `${name} is told of the end`, name, (it) => it.lost.length > 0);
      hold(`${name}: ${lost}`, lost[0] === 'transport close');
    }
    say('done', { browser: browser.version() });
  } finally {
    await browser.close();
  }
}

try {
  if (positionals.length !== 1) throw new Error('usage: node socketio.mjs URL --verified-by WHO [--servers N]');
  if (!existsSync(executablePath)) throw new Error(`no Chromium at ${executablePath}: apt-get install -y chromium, or set CHROMIUM`);
  await run(positionals[0]);
  process.exit(0);
} catch (error) {
  console.error(`socketio: ${error.message}`);
  process.exit(1);
}
