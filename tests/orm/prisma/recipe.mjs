// Prisma 7 with its driver adapter for node-postgres: a transaction for one account, denials as exceptions.
// Where the server is comes from the environment (PGHOST, PGDATABASE …).

import { PrismaPg } from '@prisma/adapter-pg'
import { PrismaClient } from '@prisma/client'
import { check, same, thrown } from '../node/checks.mjs'

const prisma = new PrismaClient({ adapter: new PrismaPg({ max: 1 }) })

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

// What the database said, under its own name. Prisma hands it on in the error's `meta`.
function named(error) {
  const { originalCode, detail } = error.meta?.driverAdapterError?.cause ?? {}
  if (originalCode !== 'NE001' && originalCode !== 'NE002') return error
  const said = JSON.parse(detail)
  if (said.reason === 'rate_limited') return new Denied(429, said)
  return new Denied(originalCode === 'NE001' ? 403 : 402, said)
}
// end

// recipe: account
// A transaction for the account: it ends with the transaction, whatever ends that.
async function actingFor(account, work) {
  try {
    return await prisma.$transaction(async (tx) => {
      await tx.$queryRaw`SELECT entitlements.set_account(${account}::text)`
      return work(tx)
    })
  } catch (error) {
    throw named(error)
  }
}
// end

const titles = (account) => actingFor(account, async (tx) => {
  const rows = await tx.report.findMany({ select: { title: true }, orderBy: { id: 'asc' } })
  return rows.map((row) => row.title)
})

// recipe: work
// Writes the row and takes the unit, once for a request however often it comes. Returns how many are left.
const exportFile = (account, file, request) => actingFor(account, async (tx) => {
  await tx.export.createMany({ data: [{ file, request }], skipDuplicates: true })
  const [decision] = await tx.$queryRaw`
    SELECT remaining FROM entitlements.consume(entitlements.current_account(), 'exports', 1, ${request})`
  return Number(decision.remaining)
})
// end

const search = (account) => actingFor(account, (tx) => tx.$queryRaw`SELECT allowed FROM entitlements.consume('searches')`)

// Any other error is not ours to answer.
const respond = (work) => work.then(() => ({ status: 200 }), (error) => {
  if (error instanceof Denied) return error
  throw error
})

// How many exports there are, and how many units are used.
const state = (account) => actingFor(account, async (tx) => {
  const [{ used }] = await tx.$queryRaw`SELECT used FROM entitlements.check_access('exports')`
  return [await tx.export.count(), Number(used)]
})

check('an account sees its own rows and no others', same(await titles('acme'), ['July', 'August']))
check('an account without the feature sees no rows', same(await titles('hobby'), []))
check('without an account there are no rows', same(await titles(null), []))

check('a row and the unit it takes are committed together',
  await exportFile('acme', 'a.csv', 'r1') === 2 && same(await state('acme'), [1, 1]))

const full = new Error('the disk is full')
const broken = await thrown(actingFor('acme', async (tx) => {
  await tx.export.create({ data: { file: 'b.csv', request: 'r2' } })
  await tx.$queryRaw`SELECT allowed FROM entitlements.consume('exports')`
  throw full
}))
check('a rollback gives the unit back', broken === full && same(await state('acme'), [1, 1]))

// Prisma has no savepoints of its own in an interactive transaction.
await actingFor('acme', async (tx) => {
  await tx.$executeRaw`SAVEPOINT attempt`
  await tx.$queryRaw`SELECT allowed FROM entitlements.consume('exports')`
  await tx.$executeRaw`ROLLBACK TO attempt`
})
check('a rollback to a savepoint gives its unit back', same(await state('acme'), [1, 1]))

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

const [{ current_account: left }] = await prisma.$queryRaw`SELECT entitlements.current_account()`
check('the next transaction of the connection has no account', left === null)

await prisma.$disconnect()
