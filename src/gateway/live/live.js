// Tidegate: watches entries by a stream of events, one for all tabs of a user. See docs/live.md.
(() => {
  // Milliseconds: between two looks at what is silent; until a reply of the leader, a first byte, the end of a poll.
  const TICK = 2000, REPLY = 4000, FIRST_BYTE = 8000, POLL = 40000;
  // By the clock on the wall: timers stand still while a computer sleeps.
  const isOver = (since, ms) => Math.abs(Date.now() - since) > ms;

  // Reads streams, and polls where they bring nothing, until stop(). `memory` holds what is known already.
  function connect(url, headers, poll, memory, tell, set, refuse) {
    let stopped, polling, hurry, cuts = 0, pause = 0, retry = 1000, wake = () => {};
    const underWay = new Set();

    const sleep = (ms) => new Promise((done) => { wake = done; setTimeout(done, ms); });

    // Makes a request, which may be silent for `ms`. Returns what `use` does, or undefined if it was cut.
    async function ask(target, fields, ms, use) {
      const request = Object.assign(new AbortController(), { ms, at: Date.now(), isPoll: fields.Prefer });
      underWay.add(request);
      try {
        return await use(await fetch(target, { headers: { ...headers, ...fields }, cache: 'no-store', signal: request.signal }), request);
      } catch {
        return undefined;
      } finally {
        underWay.delete(request);
        request.abort();
      }
    }

    const isSilent = (request) => isOver(request.at, request.ms);
    const end = (which) => [...underWay].filter(which).map((request) => request.abort()).length;

    function endPolling() {
      polling = undefined;
      end((request) => request.isPoll);
    }

    function read(block) {
      const fields = { event: 'message', id: '' }, data = [];
      for (const line of block.split('\n')) {
        const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
        if (field === 'data') data.push(value);
        else fields[field] = value;
      }
      retry = fields.retry || retry;
      if (!data.length || stopped) return;
      set('open');
      tell({ type: fields.event, id: fields.id, data: data.join('\n') });
    }

    // One stream, to its end. Notes in `outcome` if anything came by it, and when to come back.
    async function stream(outcome) {
      const fields = { Accept: 'text/event-stream', ...(memory.id && { 'Last-Event-ID': memory.id }) };
      await ask(url, fields, FIRST_BYTE, async (answer, request) => {
        if ([204, 400, 401, 403, 404].includes(answer.status)) return refuse(answer.status);
        outcome.later = 1000 * answer.headers.get('retry-after') || 0;
        if (!answer.ok || !/^text\/event-stream/.test(answer.headers.get('content-type'))) return;
        const reader = answer.body.getReader(), decoder = new TextDecoder();
        for (let text = '', part; !(part = await reader.read()).done;) {
          request.at = Date.now();
          if (!outcome.heard) {
            outcome.heard = true;
            endPolling();
            // It says again of what it can't read, but not of what it can.
            for (const key in memory.last) if (key[0] === ' ') tell({ type: 'current', data: memory.last[key].data, id: '' });
          }
          const blocks = (text + decoder.decode(part.value, { stream: true })).split('\n\n');
          text = blocks.pop();
          blocks.forEach(read);
          request.ms = memory.silence;
        }
      });
    }

    async function run() {
      await null; // whoever called has to have stop() first
      const tick = setInterval(end, TICK, isSilent);
      while (!stopped) {
        const began = Date.now(), outcome = { later: 0 };
        hurry = false;
        if (!polling) set('connecting');
        await stream(outcome);
        if (stopped) break;
        cuts = outcome.heard ? 0 : cuts + 1;
        pause = outcome.heard ? +retry : Math.min(2 * pause || 500, polling ? 30000 : 5000);
        // Nothing at all in time: a proxy holds back events.
        if (!polling && (cuts > 2 || cuts && isOver(began, FIRST_BYTE)) && Object.keys(poll)[0]) {
          polling = { failing: new Set() };
          for (const type in poll) longPoll(type, poll[type], polling);
        }
        const wait = Math.min(outcome.later, 30000) + pause * (0.5 + Math.random());
        if (!polling) set('waiting', wait);
        if (!hurry) await sleep(wait);
      }
      clearInterval(tick);
    }

    // Polls beside the streams that are tried, until one of them is heard.
    async function longPoll(type, target, mine) {
      while (polling === mine) {
        const began = Date.now(), known = memory.tags[type];
        let isNew;
        const isGood = await ask(target, { Prefer: 'wait=25', ...(known && { 'If-None-Match': known }) }, POLL, async (answer) => {
          if (answer.status !== 200) return answer.status === 304;
          const tag = answer.headers.get('etag'), data = await answer.text();
          isNew = tag && tag !== known;
          if (polling === mine) {
            memory.tags[type] = tag;
            if (memory.last[type]?.data !== data) tell({ type, data, id: '' });
          }
          return true;
        });
        if (polling !== mine) return;
        mine.failing[isGood ? 'delete' : 'add'](type);
        set(mine.failing.size ? 'waiting' : 'polling');
        // Somebody on the way may not wait.
        if (!isNew && (!isGood || !isOver(began, 1000))) await new Promise((done) => setTimeout(done, TICK));
      }
    }

    run();
    return {
      hasten(all) { hurry = end((request) => all || isSilent(request)); wake(); },
      stop() { stopped = true; polling = undefined; end(() => true); wake(); },
    };
  }

  function live(url, { on = {}, headers = {}, state, poll = {}, share = 'Authorization' in headers } = {}) {
    url = new URL(url, document.baseURI).href;
    const name = 'tidegate ' + JSON.stringify([url, share === true ? headers : share]), page = new AbortController();
    // `last`: the last event of each entry by its name, and by a space and its name that it is stale.
    let memory = { id: '', silence: 40000, tags: {}, last: {}, state: [] };
    let channel = share && self.BroadcastChannel && navigator.locks && new BroadcastChannel(name);
    let connection, leading, release, asked, heardAt, patience, term = 0, queued = 0;

    const isOn = () => !page.signal.aborted;
    // Leaders are known by the time at which they began: one that was frozen may not know yet that another leads.
    const post = (message) => { if (isOn() && channel) channel.postMessage({ ...message, term }); };

    // A page's own fault must not end the stream.
    function call(target, ...values) {
      try { target?.(...values); } catch (error) { console.error(error); }
    }

    function show(...now) {
      if (now[0] === memory.state[0]) return;
      memory.state = now;
      call(state, ...now);
      if (leading) post({ now });
    }

    function hear(event) {
      const { type, data } = event, { last } = memory;
      if (event.id) memory.id = event.id;
      if (type === 'ping') memory.silence = 2500 * JSON.parse(data).interval;
      else if (type === 'stale') last[' ' + JSON.parse(data).event] = event;
      else if (type === 'current') delete last[' ' + JSON.parse(data).event];
      else if (type !== 'token') { last[type] = event; delete last[' ' + type]; }
      call(on[type], data, event);
      if (leading) post({ event });
    }

    function lead() {
      leading = true;
      term = Math.max(term + 1, Date.now());
      connection = connect(url, headers, poll, memory, hear, show, (status) => { stop(); call(state, 'refused', status); });
    }

    function greet() {
      [asked, heardAt, patience] = [true, Date.now(), REPLY];
      post({ hello: true });
    }

    function take({ data: message }) {
      if (message.hello) {
        if (leading) { connection.hasten(); post({ memory }); }
        return;
      }
      if (leading || message.term < term) return;
      [asked, heardAt, term] = [false, Date.now(), message.term];
      if (message.memory) {
        const { last, state } = message.memory, before = memory;
        memory = { ...message.memory, state: before.state };
        for (const [key, event] of Object.entries(last)) if (before.last[key]?.data !== event.data) hear(event);
        show(...state);
      }
      if (message.event) hear(message.event);
      if (message.now) show(...message.now);
      // A leader in the background may be late: its timers are slow.
      patience = TICK + (memory.state[0] === 'waiting' && memory.state[1] || memory.silence);
    }

    // The lock is with the tab that has the stream. A tab that is closed leaves it to the next one, a frozen one is robbed of it.
    function compete(steal) {
      queued += 1;
      navigator.locks.request(name, { steal }, () => {
        queued -= 1;
        return isOn() && new Promise((done) => { release = done; lead(); });
      }).catch((error) => {
        if (!isOn()) return;
        if (error.name !== 'AbortError') { channel = null; lead(); return; }
        leading = false; // stolen
        connection.stop();
        greet();
        if (!queued) compete(false);
      });
    }

    function watchLeader() {
      if (leading || !isOver(heardAt, patience)) return;
      const steals = asked;
      greet();
      if (steals) compete(true);
    }

    function wakeUp({ type }) {
      if (!isOn() || document.hidden && type !== 'online') return;
      if (leading) connection.hasten(type === 'online');
      else greet();
    }

    function stop() {
      page.abort();
      connection?.stop();
      release?.();
      channel?.close();
      clearInterval(tick);
    }

    const tick = channel && setInterval(watchLeader, TICK);
    for (const type of ['visibilitychange', 'online', 'pageshow']) addEventListener(type, wakeUp, { signal: page.signal });
    if (channel) {
      channel.onmessage = take;
      greet();
      compete(false);
    } else lead();
    return { stop };
  }

  self.tidegate = { live };
})();
