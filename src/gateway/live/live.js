// Tidegate: watches entries by a stream of events. See docs/live.md.
(() => {
  'use strict';
  const sleep = (ms, wake) => new Promise((done) => { const t = setTimeout(done, ms); wake(() => { clearTimeout(t); done(); }); });
  self.tidegate = { live(url, { on = {}, headers = {}, state = () => {}, poll = {}, share = true } = {}) {
    let id = '', tags = {}, stopped = false, leading = false, cuts = 0, pause = 0, retry = 1000, quiet = 8000, dog, abort, release, wake = () => {};
    const last = new Map();
    const name = 'tidegate ' + url + JSON.stringify(headers);
    const channel = share && self.BroadcastChannel && navigator.locks ? new BroadcastChannel(name) : null;
    const set = (s, detail) => { state(s, detail); if (leading) channel?.postMessage({ s, detail }); };
    const arm = () => { clearTimeout(dog); dog = setTimeout(() => abort.abort(), quiet); };
    const tell = (event) => { if (event.id) last.set(event.type, event); on[event.type]?.(event.data, event); };
    const take = (event) => { tell(event); channel?.postMessage({ event }); };

    function read(block) {
      const event = { type: 'message', id: '' }, data = [];
      for (const line of block.split('\n')) {
        const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
        if (field === 'data') data.push(value);
        else if (field === 'event') event.type = value;
        else if (field === 'id') id = event.id = value;
        else if (field === 'retry') retry = +value;
      }
      event.data = data.join('\n');
      if (event.type === 'ping') quiet = 2500 * JSON.parse(event.data).interval;
      if (data.length) take(event);
    }

    // One stream, to its end; returns true if anything came by it.
    async function stream() {
      let heard = false, text = '';
      abort = new AbortController();
      quiet = 8000; arm(); set('connecting');
      try {
        const ask = { ...headers, Accept: 'text/event-stream', ...(id && { 'Last-Event-ID': id }) };
        const answer = await fetch(url, { headers: ask, cache: 'no-store', signal: abort.signal });
        if ([204, 401, 403, 404].includes(answer.status)) { stopped = true; set('refused', answer.status); return false; }
        if (!answer.ok) throw answer;
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        if (id) { quiet = 40000; heard = true; arm(); set('open'); }
        for (let part; !(part = await reader.read()).done;) {
          if (!heard) { heard = true; quiet = 40000; set('open'); }
          arm();
          const blocks = (text + part.value).split('\n\n');
          text = blocks.pop();
          blocks.forEach(read);
        }
      } catch { /* cut, silent, or refused for now */ }
      clearTimeout(dog);
      return heard;
    }

    async function longPoll(type, target, until) {
      while (!stopped && Date.now() < until) {
        const answer = await fetch(target, { headers: { ...headers, Prefer: 'wait=25', ...(tags[type] && { 'If-None-Match': tags[type] }) }, cache: 'no-store' }).catch(() => ({}));
        if (answer.status === 200) { tags[type] = answer.headers.get('etag'); take({ type, id: '', data: await answer.text() }); }
        if (answer.status !== 200 && answer.status !== 304 || !tags[type]) await sleep(2000, () => {});
      }
    }

    async function lead() {
      leading = true;
      while (!stopped) {
        const heard = await stream();
        if (stopped) break;
        [cuts, pause] = heard ? [0, retry] : [cuts + 1, Math.min(2 * pause || 500, 30000)];
        if (cuts >= 3 && Object.keys(poll).length) {
          set('polling');
          await Promise.all(Object.entries(poll).map(([type, target]) => longPoll(type, target, Date.now() + 120000)));
        }
        set('waiting');
        await sleep(pause * (0.5 + Math.random()), (w) => { wake = w; });
      }
    }

    if (channel) {
      channel.onmessage = ({ data }) => {
        if (data.hello) { if (leading) { last.forEach((event) => channel.postMessage({ event })); set('open'); } }
        else if (data.event) tell(data.event); else state(data.s, data.detail);
      };
      channel.postMessage({ hello: true });
      navigator.locks.request(name, () => { if (!stopped) { lead(); return new Promise((done) => { release = done; }); } });
    } else lead();
    addEventListener('online', () => wake());
    document.addEventListener('visibilitychange', () => document.hidden || wake());
    return { stop() { stopped = true; abort?.abort(); wake(); release?.(); channel?.close(); } };
  } };
})();
