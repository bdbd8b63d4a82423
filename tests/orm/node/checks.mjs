// Says of each thing that a recipe shows whether it held. The program's status is 1 unless all did.

export function check(what, holds) {
  console.log(`${holds ? 'ok' : 'not ok'} - ${what}`)
  if (!holds) process.exitCode = 1
}

export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other)

// What a promise was rejected with, null if it was not.
export const thrown = (promise) => promise.then(() => null, (error) => error)
