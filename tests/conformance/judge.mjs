// What a run is worth: sums, the table, and every way in which the run and exceptions.json disagree. Pure: values
// in, values out.
//
// An outcome is { suite, id, kind: required | optimal | check, passed, why }. `expected` is a section of
// exceptions.json: how many required and optimal tests pass, a reason for each one that doesn't, and for each suite
// that is not counted.

const KINDS = ['required', 'optimal', 'check']

/** Per kind how many passed, of how many. */
export function sums (outcomes) {
  return Object.fromEntries(KINDS.map(kind => {
    const these = outcomes.filter(outcome => outcome.kind === kind)
    return [kind, { passed: these.filter(outcome => outcome.passed).length, of: these.length }]
  }))
}

/** The outcomes of the suites that count. */
export function counted (outcomes, notCounted) {
  return outcomes.filter(outcome => !(outcome.suite in notCounted))
}

/** A row per suite, then the totals, in Markdown. */
export function table (outcomes, notCounted) {
  const suites = [...new Set(outcomes.map(outcome => outcome.suite))]
  const row = (name, outcomes) => {
    const cells = KINDS.map(kind => {
      const { passed, of } = sums(outcomes)[kind]
      return of === 0 ? '–' : `${passed}/${of}`
    })
    return [name, ...cells]
  }
  const rows = suites.map(suite => {
    const name = suite in notCounted ? `${suite} (not counted)` : suite
    return row(name, outcomes.filter(outcome => outcome.suite === suite))
  })
  return lines([
    ['suite', 'required', 'optimal', 'check: yes'],
    ...rows,
    row('**total**', counted(outcomes, notCounted))
  ])
}

function lines ([head, ...rows]) {
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map(row => row[column].length)))
  const line = cells => {
    const padded = cells.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))
    return `| ${padded.join(' | ')} |`
  }
  const rule = widths.map((width, column) => column === 0 ? '-'.repeat(width) : '-'.repeat(width - 1) + ':')
  return [line(head), line(rule), ...rows.map(line)].join('\n')
}

/** Each disagreement as a line of its own; none: the run is as it should be. */
export function faults (outcomes, expected) {
  const these = counted(outcomes, expected.not_counted)
  return [
    ...unexplained(these, expected.exceptions),
    ...overtaken(these, expected),
    ...changedSums(sums(these), expected)
  ]
}

function unexplained (outcomes, exceptions) {
  return outcomes
    .filter(outcome => outcome.kind !== 'check' && !outcome.passed && !(outcome.id in exceptions))
    .map(({ kind, suite, id, why }) => `${kind} test ${id} of ${suite} ${why}`)
}

function overtaken (outcomes, { exceptions, not_counted: notCounted }) {
  const known = new Map(outcomes.map(outcome => [outcome.id, outcome]))
  const listed = Object.entries(exceptions).flatMap(([id, reason]) => {
    const outcome = known.get(id)
    if (outcome === undefined) return [`exception ${id}: there is no such test that counts; remove it`]
    if (outcome.kind === 'check') return [`exception ${id}: a check may say no; remove it`]
    if (outcome.passed) return [`exception ${id}: it passes now; remove it`]
    return reason.trim() === '' ? [`exception ${id}: no reason is given`] : []
  })
  const suites = Object.entries(notCounted)
    .filter(([, reason]) => reason.trim() === '')
    .map(([suite]) => `suite ${suite} is not counted: no reason is given`)
  return [...listed, ...suites]
}

function changedSums (have, expected) {
  return ['required', 'optimal'].flatMap(kind => {
    const { passed, of } = have[kind]
    const want = expected[kind]
    if (of !== want.of) return [`${of} ${kind} tests are counted, not ${want.of}: the suite is another one`]
    if (passed < want.passed) return [`${passed} ${kind} tests pass, not ${want.passed} as before`]
    return passed > want.passed ? [`${passed} ${kind} tests pass: hold that, it says ${want.passed}`] : []
  })
}
