import assert from 'node:assert/strict'
import { test } from 'node:test'
import { counted, faults, sums, table } from './judge.mjs'

const outcome = (id, kind, passed, suite = 'a') => ({ suite, id, kind, passed, why: passed ? 'pass' : 'fails: so' })
const run = [
  outcome('r1', 'required', true),
  outcome('r2', 'required', false),
  outcome('o1', 'optimal', true),
  outcome('o2', 'optimal', false),
  outcome('c1', 'check', false),
  outcome('x1', 'required', false, 'x')
]
const expected = {
  required: { passed: 1, of: 2 },
  optimal: { passed: 1, of: 2 },
  exceptions: { r2: 'for this reason', o2: 'for that' },
  not_counted: { x: 'not ours' }
}
const found = (changes, outcomes = run) => faults(outcomes, { ...expected, ...changes })

test('a run with every failure explained has no faults', () => {
  assert.deepEqual(found({}), [])
})

test('a failure nobody explains is a fault, a check that says no is none', () => {
  assert.deepEqual(found({ exceptions: { r2: 'for this reason' } }), ['optimal test o2 of a fails: so'])
})

test('a suite that is not counted counts once its reason is gone', () => {
  assert.deepEqual(found({ not_counted: {} }), [
    'required test x1 of x fails: so',
    '3 required tests are counted, not 2: the suite is another one'
  ])
  assert.equal(found({ not_counted: { x: ' ' } }).length, 1)
})

test('an exception has to name a test that fails, and why', () => {
  const listed = extra => found({ exceptions: { ...expected.exceptions, ...extra } })
  assert.match(listed({ o1: 'no longer so' })[0], /o1: it passes now; remove it/)
  assert.match(listed({ gone: 'unknown' })[0], /gone: there is no such test/)
  assert.match(listed({ x1: 'of a suite that is not counted' })[0], /x1: there is no such test/)
  assert.match(listed({ c1: 'needless' })[0], /c1: a check may say no/)
  assert.match(listed({ o2: '' })[0], /o2: no reason/)
})

test('the number of passes is held in both directions', () => {
  assert.match(found({ required: { passed: 2, of: 2 } })[0], /1 required tests pass, not 2/)
  assert.match(found({ optimal: { passed: 0, of: 2 } })[0], /hold that, it says 0/)
  const fewer = run.filter(({ id }) => id !== 'o1')
  assert.deepEqual(found({}, fewer), ['1 optimal tests are counted, not 2: the suite is another one'])
})

test('sums and table count what counts', () => {
  assert.deepEqual(sums(counted(run, expected.not_counted)), {
    required: { passed: 1, of: 2 }, optimal: { passed: 1, of: 2 }, check: { passed: 0, of: 1 }
  })
  assert.deepEqual(table(run, expected.not_counted).split('\n').map(line => line.replaceAll(/ +/g, ' ')), [
    '| suite | required | optimal | check: yes |',
    '| --------------- | -------: | ------: | ---------: |',
    '| a | 1/2 | 1/2 | 0/1 |',
    '| x (not counted) | 0/1 | – | – |',
    '| **total** | 1/2 | 1/2 | 0/1 |'
  ])
})
