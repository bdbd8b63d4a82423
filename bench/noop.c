/*
 * The cheapest function that SQL can call: what a check costs beyond it is the check's own.
 * Takes the arguments of entitled() and returns true.
 */
#include "postgres.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(noop);

Datum
noop(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}
