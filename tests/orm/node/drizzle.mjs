// Drizzle on node-postgres: a transaction for one account, denials as exceptions.
// Where the server is comes from the environment (PGHOST, PGDATABASE …).

import { TransactionRollbackError, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { bigint, pgTable, text } from 'drizzle-orm/pg-core'
import pg from 'pg'
import { check, same, thrown } from './checks.mjs'

const reports = pgTable('reports', {
  id: bigint({ mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
  title: text().notNull(),
})

// Without the column of the account: the database fills in the current one.
const exports = pgTable('exports', {
  id: bigint({ mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
  file: text().notNull(),
  request: text().notNull(),
})

const pool = new pg.Pool({ max: 1 })
const db = drizzle({ client: pool })

// recipe: exceptions
class Denied extends Error {
  constructor(status, detail) {
    super(detail.reason)
    this.status = status
    this.detail = detail
    this.headers = {}
    if (status === 429) {
      const seconds = Math.ceil((Date.parse(detail.resets_at) - Date.now()) / 1000)
      this.headers['Retry-After'] = String(Math.max(1, seconds))
    }
  }
}

// What the database said, under its own name. Drizzle hands the driver's error on as `cause`.
function named(error) {
  const { code, detail } = error.cause ?? error
  if (code !== 'NE001' && code !== 'NE002') return error
  const said = JSON.parse(detail)
  if (said.reason === 'rate_limited') return new Denied(429, said)
  return new Denied(code === 'NE001' ? 403 : 402, said)
}
// end

// recipe: account
// A transaction for the account: it ends with the transaction, whatever ends that.
async function actingFor(account, work) {
  try {
    return await db.transaction(async (tx) => {
      await tx.execute(sql`SELECT entitlements.set_account(${account}::text)`)
      return work(tx)
    })
  } catch (error) {
    throw named(error)
  }
}
// end

const titles = (account) => actingFor(account, async (tx) => {
  const rows = await tx.select({ title: reports.title }).from(reports).orderBy(reports.id)
  return rows.map((row) => row.title)
})

// recipe: work
// Writes the row and takes the unit, once for a request however often it comes. Returns how many are left.
const exportFile = (account, file, request) => actingFor(account, async (tx) => {
  await tx.insert(exports).values({ file, request }).onConflictDoNothing()
  const { rows: [decision] } = await tx.execute(
    sql`SELECT remaining FROM entitlements.consume(entitlements.current_account(), 'exports', 1, ${request})`)
  return Number(decision.remaining)
})
// end

const search = (account) => actingFor(account, (tx) => tx.execute(sql`SELECT FROM entitlements.consume('searches')`))

// Any other error is not ours to answer.
const respond = (work) => work.then(() => ({ status: 200 }), (error) => {
  if (error instanceof Denied) return error
  throw error
})

// How many exports there are, and how many units are used.
const state = (account) => actingFor(account, async (tx) => {
  const { rows: [{ used }] } = await tx.execute(sql`SELECT used FROM entitlements.check_access('exports')`)
  return [await tx.$count(exports), Number(used)]
})

check('an account sees its own rows and no others', same(await titles('acme'), ['July', 'August']))
check('an account without the feature sees no rows', same(await titles('hobby'), []))
check('without an account there are no rows', same(await titles(null), []))

check('a row and the unit it takes are committed together',
  await exportFile('acme', 'a.csv', 'r1') === 2 && same(await state('acme'), [1, 1]))

const broken = await thrown(actingFor('acme', async (tx) => {
  await tx.insert(exports).values({ file: 'b.csv', request: 'r2' })
  await tx.execute(sql`SELECT FROM entitlements.consume('exports')`)
  tx.rollback()
}))
check('a rollback gives the unit back', broken instanceof TransactionRollbackError && same(await state('acme'), [1, 1]))

const partly = await actingFor('acme', (tx) => thrown(tx.transaction(async (savepoint) => {
  await savepoint.execute(sql`SELECT FROM entitlements.consume('exports')`)
  savepoint.rollback()
})))
check('a rollback to a savepoint gives its unit back', partly instanceof TransactionRollbackError && same(await state('acme'), [1, 1]))

check('the same request again takes nothing',
  await exportFile('acme', 'a.csv', 'r1') === 2 && same(await state('acme'), [1, 1]))

await exportFile('acme', 'b.csv', 'r2')
await exportFile('acme', 'c.csv', 'r3')
const refused = await respond(exportFile('acme', 'd.csv', 'r4'))
check('used up: 402, and the row is not there',
  refused.status === 402 && refused.detail.allowance === 3 && same(await state('acme'), [3, 3]))
check('not entitled: 403', (await respond(exportFile('hobby', 'a.csv', 'r1'))).status === 403)
const first = await respond(search('globex'))
const second = await respond(search('globex'))
const wait = Number(second.headers?.['Retry-After'])
check('too fast: 429 with Retry-After', first.status === 200 && second.status === 429 && wait >= 1 && wait <= 60)

const { rows: [{ current_account: left }] } = await db.execute(sql`SELECT entitlements.current_account()`)
check('the next transaction of the connection has no account', left === null)

await pool.end()
