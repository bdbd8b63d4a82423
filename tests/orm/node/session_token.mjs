// Session tokens with node-postgres: the application passes on what its users' log-in service signed, and its role, of level
// member, can act for nobody else.
// Where the server is comes from the environment (PGHOST, PGDATABASE …).

import { generateKeyPairSync, sign } from 'node:crypto'
import { readFileSync } from 'node:fs'
import pg from 'pg'
import { check, same, thrown } from './checks.mjs'

const pool = new pg.Pool({ max: 1 })

// recipe: account
// A transaction for the account that the token names. The token is a parameter, so it is in no statement's text.
async function actingBy(token, work) {
  const client = await pool.connect()
  let broken
  try {
    await client.query('BEGIN')
    await client.query('SELECT entitlements.authenticate($1)', [token])
    const result = await work(client)
    await client.query('COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch((lost) => { broken = lost })
    throw error
  } finally {
    client.release(broken)
  }
}
// end

// recipe: work
const exportFile = (token, file, request) => actingBy(token, async (client) => {
  await client.query('INSERT INTO exports (file, request) VALUES ($1, $2)', [file, request])
  const { rows: [decision] } = await client.query(`SELECT remaining FROM entitlements.consume('exports')`)
  return Number(decision.remaining)
})
// end

const reports = (token) => actingBy(token, async (client) => {
  const { rows } = await client.query('SELECT title FROM reports ORDER BY id')
  return rows.map((row) => row.title)
})

const state = (token) => actingBy(token, async (client) => {
  const { rows: [{ count, used }] } = await client.query(
    `SELECT (SELECT count(*) FROM exports), used FROM entitlements.check_access('exports')`)
  return [Number(count), Number(used)]
})

// Stands for the log-in service, which has the private key.
const key = readFileSync(process.env.SESSION_KEY)
const now = Math.floor(Date.now() / 1000)
function tokenFor(account, { claims = {}, by = key } = {}) {
  const encoded = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const header = encoded({ alg: 'EdDSA', typ: 'JWT', kid: 'log-in' })
  const body = encoded({ iss: 'https://login.example', aud: 'recipes', sub: account, exp: now + 300, ...claims })
  return `${header}.${body}.${sign(null, Buffer.from(`${header}.${body}`), by).toString('base64url')}`
}

// The SQLSTATE and the reason that a token is refused for.
async function refusal(token) {
  const error = await thrown(reports(token))
  return error && [error.code, error.detail && JSON.parse(error.detail).reason]
}

const acme = tokenFor('acme')
check('a token shows the rows of its account and no others', same(await reports(acme), ['July', 'August']))
check('an account without the feature sees no rows', same(await reports(tokenFor('hobby')), []))
check('a row and the unit it takes are committed together',
  await exportFile(acme, 'a.csv', 'r1') === 2 && same(await state(acme), [1, 1]))
const denied = await thrown(exportFile(tokenFor('hobby'), 'a.csv', 'r1'))
check('not entitled: NE001', denied?.code === 'NE001')

check('an expired token is refused', same(await refusal(tokenFor('acme', { claims: { exp: now - 600 } })), ['NE012', 'expired']))
check('a token for another application is refused',
  same(await refusal(tokenFor('acme', { claims: { aud: 'another' } })), ['NE012', 'wrong_audience']))
const { privateKey } = generateKeyPairSync('ed25519')
check('a token that somebody else signed is refused',
  same(await refusal(tokenFor('acme', { by: privateKey })), ['NE012', 'bad_signature']))

const named = await thrown(pool.query(`SELECT entitlements.set_account('globex')`))
check('the role cannot name an account by itself', named?.code === '42501')
const taken = await thrown(pool.query(`SELECT entitlements.consume('globex', 'exports', 1)`))
check('the role cannot take units of another account', taken?.code === '42501')

const { rows: [{ current_account: left }] } = await pool.query('SELECT entitlements.current_account()')
check('the next transaction of the connection has no account', left === null)

await pool.end()
