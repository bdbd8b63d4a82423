// node-postgres, with a pool: rows of one account, units for its work, refusals as HTTP answers.
// Where the server is comes from the environment (PGHOST, PGDATABASE …).

import pg from 'pg'
import { check, same, thrown } from './checks.mjs'

const pool = new pg.Pool({ max: 1 })

// recipe: account
// A transaction for the account: it ends with the transaction, whatever ends that.
async function actingFor(account, work) {
  const client = await pool.connect()
  let broken
  try {
    await client.query('BEGIN')
    await client.query('SELECT entitlements.set_account($1::text)', [account])
    const result = await work(client)
    await client.query('COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch((lost) => { broken = lost })
    throw error
  } finally {
    client.release(broken) // A connection that cannot even roll back is closed, not handed to somebody else.
  }
}
// end

const reports = (account) => actingFor(account, async (client) => {
  const { rows } = await client.query('SELECT title FROM reports ORDER BY id')
  return rows.map((row) => row.title)
})

// recipe: work
// Writes the row and takes the unit, once for a request however often it comes. Returns how many are left.
const exportFile = (account, file, request) => actingFor(account, async (client) => {
  await client.query('INSERT INTO exports (file, request) VALUES ($1, $2) ON CONFLICT DO NOTHING', [file, request])
  const { rows: [decision] } = await client.query(
    `SELECT remaining FROM entitlements.consume(entitlements.current_account(), 'exports', 1, $1)`, [request])
  return Number(decision.remaining)
})
// end

const search = (account) => actingFor(account, (client) => client.query(`SELECT FROM entitlements.consume('searches')`))

// recipe: refusal
const STATUS = { NE001: 403, NE002: 402, NE012: 401 }

// The HTTP status and headers that say what the database said; any other error is thrown again.
function answer(error) {
  const status = STATUS[error.code]
  if (!status) throw error
  const detail = JSON.parse(error.detail)
  if (detail.reason !== 'rate_limited') return { status, headers: {} }
  const seconds = Math.ceil((Date.parse(detail.resets_at) - Date.now()) / 1000)
  return { status: 429, headers: { 'Retry-After': String(Math.max(1, seconds)) } }
}
// end

const respond = (work) => work.then(() => ({ status: 200, headers: {} }), answer)

// How many exports there are, and how many units are used.
const state = (account) => actingFor(account, async (client) => {
  const { rows: [{ count, used }] } = await client.query(
    `SELECT (SELECT count(*) FROM exports), used FROM entitlements.check_access('exports')`)
  return [Number(count), Number(used)]
})

check('an account sees its own rows and no others', same(await reports('acme'), ['July', 'August']))
check('an account without the feature sees no rows', same(await reports('hobby'), []))
check('without an account there are no rows', same(await reports(null), []))

check('a row and the unit it takes are committed together',
  await exportFile('acme', 'a.csv', 'r1') === 2 && same(await state('acme'), [1, 1]))

const full = new Error('the disk is full')
const broken = await thrown(actingFor('acme', async (client) => {
  await client.query(`INSERT INTO exports (file, request) VALUES ('b.csv', 'r2')`)
  await client.query(`SELECT FROM entitlements.consume('exports')`)
  throw full
}))
check('a rollback gives the unit back', broken === full && same(await state('acme'), [1, 1]))

await actingFor('acme', async (client) => {
  await client.query('SAVEPOINT attempt')
  await client.query(`SELECT FROM entitlements.consume('exports')`)
  await client.query('ROLLBACK TO attempt')
})
check('a rollback to a savepoint gives its unit back', same(await state('acme'), [1, 1]))

check('the same request again takes nothing',
  await exportFile('acme', 'a.csv', 'r1') === 2 && same(await state('acme'), [1, 1]))

await exportFile('acme', 'b.csv', 'r2')
await exportFile('acme', 'c.csv', 'r3')
const refused = await respond(exportFile('acme', 'd.csv', 'r4'))
check('used up: 402, and the row is not there', refused.status === 402 && same(await state('acme'), [3, 3]))
check('not entitled: 403', (await respond(exportFile('hobby', 'a.csv', 'r1'))).status === 403)
const first = await respond(search('globex'))
const second = await respond(search('globex'))
const wait = Number(second.headers['Retry-After'])
check('too fast: 429 with Retry-After', first.status === 200 && second.status === 429 && wait >= 1 && wait <= 60)

const { rows: [{ current_account: left }] } = await pool.query('SELECT entitlements.current_account()')
check('the next transaction of the connection has no account', left === null)

await pool.end()
