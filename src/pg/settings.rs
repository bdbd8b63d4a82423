//! The extension's settings (GUCs).

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

static MEMO_SIZE: GucSetting<i32> = GucSetting::<i32>::new(4096);

/// How much memory a backend may use to remember what it has read, in bytes.
pub fn memo_size() -> usize {
    usize::try_from(MEMO_SIZE.get()).unwrap_or(0) * 1024
}

/// Defines the settings; called once, from _PG_init.
pub fn define() {
    GucRegistry::define_int_guc(
        c"entitlements.memo_size",
        c"Memory that a backend may use to remember resolved accounts.",
        c"What no longer fits is read again from the tables; answers are the same.",
        &MEMO_SIZE,
        64,
        1024 * 1024,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
}
