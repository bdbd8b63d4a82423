/*
 * noop: the cheapest function that SQL can call. It takes the arguments of entitled() and returns true; what a check costs
 * beyond it is the check's own.
 *
 * cpu_time: seconds of processor time that this backend has used. Other work on the machine makes a query take longer, but
 * it uses little more of this.
 */
#include "postgres.h"
#include "fmgr.h"

#include <time.h>

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(noop);

Datum
noop(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}

PG_FUNCTION_INFO_V1(cpu_time);

Datum
cpu_time(PG_FUNCTION_ARGS)
{
	struct timespec used;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) != 0)
		elog(ERROR, "the processor time of this process is unknown");
	PG_RETURN_FLOAT8(used.tv_sec + used.tv_nsec * 1e-9);
}
