//! Amounts as arguments, without the detour over text that the general conversion takes.

use super::values::numeric_amount;
use entitlements_model::amount::{Amount, AmountError};
use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, pg_sys};

/// A numeric that is given for an amount. That it is none is told when it is asked for.
pub struct AmountArgument(pub Result<Amount, AmountError>);

impl FromDatum for AmountArgument {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        // SAFETY: by contract a numeric unless NULL.
        (!is_null).then(|| Self(unsafe { numeric_amount(datum) }))
    }
}

// SAFETY: the argument is read as the type that SQL is told below.
unsafe impl<'fcx> ArgAbi<'fcx> for AmountArgument {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: by contract a numeric.
        unsafe { arg.unbox_arg_using_from_datum() }.expect("NULL is taken by Option")
    }
}

// SAFETY: from_polymorphic_datum reads numeric; nothing returns one.
unsafe impl SqlTranslatable for AmountArgument {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(AmountArgument);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("numeric"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("numeric")));
}
