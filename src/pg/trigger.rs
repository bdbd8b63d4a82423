//! Calls that the server makes when rows of a table or the tables themselves change.

use super::change_mark;
use super::error::or_raise;
use super::relations::SCHEMA;
use super::table::{KeptRows, Oid, Tally};
use crate::error::Error;
use crate::guard::rows;
use entitlements_server::mark::EVERY_ACCOUNT;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use std::marker::PhantomData;

/// A trigger on its way.
pub struct Firing<'a> {
    data: *mut pg_sys::TriggerData,
    lives: PhantomData<&'a pg_sys::TriggerData>,
}

/// What a trigger was made with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TriggerArguments {
    pub account_column: String,
    pub feature: String,
    pub condition: Option<String>,
}

impl Firing<'_> {
    /// NE007 where it is no trigger's.
    ///
    /// # Safety
    /// `fcinfo` is the call that the server is making.
    unsafe fn of(fcinfo: pg_sys::FunctionCallInfo) -> Result<Self, Error> {
        // SAFETY: by contract; the context is NULL or a node, whose tag tells its type.
        unsafe {
            let context = (*fcinfo).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return Err(Error::argument("call", "only triggers call this function"));
            }
            Ok(Self { data: context.cast(), lives: PhantomData })
        }
    }

    pub fn arguments(&self) -> Result<TriggerArguments, Error> {
        // SAFETY: the trigger is there while it fires.
        unsafe { TriggerArguments::of(&*(*self.data).tg_trigger) }
    }

    pub fn table(&self) -> Oid {
        // SAFETY: the relation is open while the trigger fires.
        unsafe { (*(*self.data).tg_relation).rd_id }
    }

    fn event(&self) -> u32 {
        // SAFETY: the data is there while the trigger fires.
        unsafe { (*self.data).tg_event }
    }

    fn operation(&self) -> u32 {
        self.event() & pg_sys::TRIGGER_EVENT_OPMASK
    }

    /// Fired by a row, as in logical replication, not by a statement.
    pub fn is_for_row(&self) -> bool {
        self.event() & pg_sys::TRIGGER_EVENT_ROW != 0
    }

    /// Marks the account of each row that changes, before it does; without a column for it, and for a statement, every account.
    /// What the trigger returns: the row that the server goes on with.
    fn mark(&self) -> Result<pg_sys::Datum, Error> {
        if !self.is_for_row() {
            return change_mark::mark(EVERY_ACCOUNT).map(|()| NOTHING);
        }
        // SAFETY: of a row trigger tg_trigtuple is the row, of one for UPDATE the old one, with the new one in tg_newtuple.
        let (row, new) = unsafe { ((*self.data).tg_trigtuple, (*self.data).tg_newtuple) };
        let is_update = self.operation() == pg_sys::TRIGGER_EVENT_UPDATE;
        for tuple in [row].into_iter().chain(is_update.then_some(new)) {
            change_mark::mark(self.marked_account(tuple)?)?;
        }
        Ok(pg_sys::Datum::from(if is_update { new } else { row }))
    }

    fn marked_account(&self, tuple: pg_sys::HeapTuple) -> Result<i64, Error> {
        // SAFETY: the tuple is one of the relation, which is open; a trigger has tgnargs arguments, NUL-terminated.
        unsafe {
            let trigger = &*(*self.data).tg_trigger;
            if trigger.tgnargs == 0 {
                return Ok(EVERY_ACCOUNT);
            }
            let descriptor = (*(*self.data).tg_relation).rd_att;
            let column = pg_sys::SPI_fnumber(descriptor, *trigger.tgargs);
            if column <= 0 {
                return Err(Error::argument("trigger", "the table has no such column"));
            }
            let mut is_null = false;
            let account = pg_sys::SPI_getbinval(tuple, descriptor, column, &mut is_null);
            // A constraint refuses the row later.
            Ok(if is_null { EVERY_ACCOUNT } else { account.value() as i64 })
        }
    }

    /// Whether this trigger is the one that counts: rows where a replica works, for which no statement triggers are meant to
    /// fire, and statements otherwise. Whatever ALTER TABLE … ENABLE TRIGGER has made of them, nothing is counted twice.
    pub fn is_due(&self) -> bool {
        // SAFETY: reads a variable of the backend.
        let is_replica = unsafe { pg_sys::SessionReplicationRole as u32 == pg_sys::SESSION_REPLICATION_ROLE_REPLICA };
        self.operation() == pg_sys::TRIGGER_EVENT_TRUNCATE || self.is_for_row() == is_replica
    }

    /// Adds what the event brings and takes away what it takes away.
    pub fn count(&self, tally: &mut Tally<'_>) -> Result<(), Error> {
        if self.operation() == pg_sys::TRIGGER_EVENT_TRUNCATE {
            return tally.take_table_away();
        }
        for (rows, by) in self.rows() {
            tally.add_kept(&rows, by)?;
        }
        Ok(())
    }

    fn rows(&self) -> Vec<(KeptRows, i64)> {
        // SAFETY: of a row trigger tg_trigtuple is the row, of one for UPDATE the old one, with the new one in tg_newtuple; of
        // a statement trigger there are the transition tables that it was declared with. All of them outlive the firing.
        unsafe {
            let data = &*self.data;
            if self.is_for_row() {
                let row = |tuple, by| (KeptRows::of_tuple(tuple), by);
                return match self.operation() {
                    pg_sys::TRIGGER_EVENT_INSERT => vec![row(data.tg_trigtuple, 1)],
                    pg_sys::TRIGGER_EVENT_UPDATE => vec![row(data.tg_trigtuple, -1), row(data.tg_newtuple, 1)],
                    _ => vec![row(data.tg_trigtuple, -1)],
                };
            }
            let tables = [(data.tg_oldtable, -1), (data.tg_newtable, 1)];
            let given = tables.into_iter().filter(|(table, _)| !table.is_null());
            given.map(|(table, by)| (KeptRows::of_transition(table), by)).collect()
        }
    }
}

impl TriggerArguments {
    /// # Safety
    /// A trigger of an open relation.
    unsafe fn of(trigger: &pg_sys::Trigger) -> Result<Self, Error> {
        // SAFETY: by contract; a trigger has tgnargs arguments, NUL-terminated.
        let argument = |place| unsafe { CStr::from_ptr(*trigger.tgargs.add(place)).to_string_lossy().into_owned() };
        Self::read((0..trigger.tgnargs.max(0) as usize).map(argument).collect())
    }

    fn read(arguments: Vec<String>) -> Result<Self, Error> {
        match <[String; 3]>::try_from(arguments) {
            Ok([account_column, feature, condition]) => {
                Ok(Self { account_column, feature, condition: Some(condition).filter(|condition| !condition.is_empty()) })
            }
            Err(_) => Err(Error::argument("trigger", "its arguments are not those that limit_rows gives")),
        }
    }

    /// As pg_trigger stores them: each ends in NUL.
    pub fn stored(bytes: &[u8]) -> Result<Self, Error> {
        let arguments = bytes.strip_suffix(&[0]).unwrap_or(bytes).split(|byte| *byte == 0);
        Self::read(arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect())
    }
}

/// A trigger of limit_rows that a table has.
pub struct CountTrigger {
    pub name: String,
    pub arguments: TriggerArguments,
    kind: i16,
    enabled: u8,
}

impl CountTrigger {
    fn is_of(&self, kind: u32) -> bool {
        self.kind as u32 & kind != 0
    }

    /// When it is to fire, as ALTER TABLE … ENABLE has it between ENABLE and TRIGGER, and as pg_trigger has it.
    fn due(&self) -> (&'static str, u8) {
        if self.is_of(pg_sys::TRIGGER_TYPE_ROW) {
            ("REPLICA", pg_sys::TRIGGER_FIRES_ON_REPLICA)
        } else if self.is_of(pg_sys::TRIGGER_TYPE_TRUNCATE) {
            ("ALWAYS", pg_sys::TRIGGER_FIRES_ALWAYS)
        } else {
            ("", pg_sys::TRIGGER_FIRES_ON_ORIGIN)
        }
    }

    pub fn is_as_due(&self) -> bool {
        self.enabled == self.due().1
    }

    /// It fires, but not when it is to: what to put between ENABLE and TRIGGER.
    pub fn to_be_enabled(&self) -> Option<&'static str> {
        let (clause, due) = self.due();
        (self.enabled != due && self.enabled != pg_sys::TRIGGER_DISABLED).then_some(clause)
    }
}

/// A table and what limits its rows, as the server has it now, whatever the transaction's snapshot shows.
pub struct LimitedTable {
    pub kind: char,
    pub is_durable: bool,
    pub owner: Oid,
    pub triggers: Vec<CountTrigger>,
}

impl LimitedTable {
    /// None where there is no such table any more.
    pub fn find(table: Oid) -> Option<Self> {
        // SAFETY: the relation is open, and its descriptor stays, until it is closed; names are NUL-terminated or NULL.
        unsafe {
            let relation = pg_sys::try_relation_open(table, pg_sys::AccessShareLock as i32);
            if relation.is_null() {
                return None;
            }
            let row = &*(*relation).rd_rel;
            let description = (*relation).trigdesc;
            let mut triggers = Vec::new();
            if !description.is_null() {
                for place in 0..(*description).numtriggers.max(0) as usize {
                    triggers.extend(count_trigger(&*(*description).triggers.add(place)));
                }
            }
            let found = Self {
                kind: char::from(row.relkind as u8),
                is_durable: row.relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT,
                owner: row.relowner,
                triggers,
            };
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            Some(found)
        }
    }

    pub fn is_partitioned(&self) -> bool {
        self.kind == 'p'
    }

    /// In which ways its rows are limited.
    pub fn limits(&self) -> Vec<&TriggerArguments> {
        let mut limits: Vec<&TriggerArguments> = Vec::new();
        for trigger in &self.triggers {
            if !limits.contains(&&trigger.arguments) {
                limits.push(&trigger.arguments);
            }
        }
        limits
    }

    pub fn limit_by(&self, feature: &str) -> Option<&TriggerArguments> {
        self.triggers.iter().map(|trigger| &trigger.arguments).find(|by| by.feature == feature)
    }
}

/// None where it is not one of limit_rows.
///
/// # Safety
/// A trigger of an open relation.
unsafe fn count_trigger(trigger: &pg_sys::Trigger) -> Option<CountTrigger> {
    // SAFETY: by contract; names are NUL-terminated or NULL, and a trigger has tgnargs arguments.
    unsafe {
        let is_named = |name: *const std::ffi::c_char, expected: &CStr| !name.is_null() && CStr::from_ptr(name) == expected;
        let schema = pg_sys::get_namespace_name(pg_sys::get_func_namespace(trigger.tgfoid));
        if !is_named(schema, SCHEMA) || !is_named(pg_sys::get_func_name(trigger.tgfoid), c"count_rows") {
            return None;
        }
        let text = |name: *const std::ffi::c_char| CStr::from_ptr(name).to_string_lossy().into_owned();
        Some(CountTrigger {
            name: text(trigger.tgname),
            arguments: TriggerArguments::of(trigger).ok()?,
            kind: trigger.tgtype,
            enabled: trigger.tgenabled as u8,
        })
    }
}

/// A command that event triggers are called for.
pub struct TableCommand {
    /// A table is about to be rewritten; otherwise the command is at its end.
    pub is_rewriting: bool,
    /// Columns that are dropped, or were, in whose place others of the same names may have come.
    pub dropped: Vec<String>,
    /// Columns that are given other values.
    pub recomputed: Vec<String>,
    /// Whether a condition on rows can mean something else after it.
    pub concerns_conditions: bool,
    /// ALTER TABLE … ATTACH PARTITION.
    pub attaches: bool,
    /// ALTER TABLE … RENAME.
    pub renames: bool,
}

impl TableCommand {
    /// NE007 where the call is not one of an event trigger.
    ///
    /// # Safety
    /// `fcinfo` is the call that the server is making.
    unsafe fn of(fcinfo: pg_sys::FunctionCallInfo) -> Result<Self, Error> {
        // SAFETY: by contract; the tags of nodes tell their types, and names are NUL-terminated.
        unsafe {
            event_trigger(fcinfo)?;
            let data = &*(*fcinfo).context.cast::<pg_sys::EventTriggerData>();
            let mut command = Self {
                is_rewriting: CStr::from_ptr(data.event) == c"table_rewrite",
                dropped: Vec::new(),
                recomputed: Vec::new(),
                concerns_conditions: true,
                attaches: false,
                renames: false,
            };
            let kind = data.parsetree.as_ref().map(|node| node.type_);
            command.renames = kind == Some(pg_sys::NodeTag::T_RenameStmt);
            if kind != Some(pg_sys::NodeTag::T_AlterTableStmt) {
                return Ok(command);
            }
            command.concerns_conditions = false;
            let parts = (*data.parsetree.cast::<pg_sys::AlterTableStmt>()).cmds;
            for place in 0..pg_sys::list_length(parts) {
                let part = &*pg_sys::list_nth(parts, place).cast::<pg_sys::AlterTableCmd>();
                command.add(part);
            }
            Ok(command)
        }
    }

    /// # Safety
    /// A part of ALTER TABLE.
    unsafe fn add(&mut self, part: &pg_sys::AlterTableCmd) {
        use pg_sys::AlterTableType as Part;
        // SAFETY: by contract; these parts name a column.
        let column = || unsafe { CStr::from_ptr(part.name).to_string_lossy().into_owned() };
        match part.subtype {
            Part::AT_DropColumn => self.dropped.push(column()),
            Part::AT_AlterColumnType => self.recomputed.push(column()),
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            Part::AT_SetExpression => self.recomputed.push(column()),
            Part::AT_AttachPartition => {
                self.attaches = true;
                return;
            }
            Part::AT_AddColumn | Part::AT_DropExpression | Part::AT_ChangeOwner => {}
            _ => return,
        }
        self.concerns_conditions = true;
    }
}

/// A version-1 function: the symbol and the record that the server asks for by name.
macro_rules! called_by_server {
    ($name:ident, $record:ident, $body:ident) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            #[pg_guard]
            unsafe extern "C-unwind" fn guarded(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
                // SAFETY: as below.
                let result: Result<pg_sys::Datum, Error> = unsafe { $body(fcinfo) };
                or_raise(result)
            }

            // SAFETY: the server calls this as its call convention says.
            unsafe { guarded(fcinfo) }
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $record() -> &'static pg_sys::Pg_finfo_record {
            const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }
    };
}

called_by_server!(count_rows, pg_finfo_count_rows, count);
called_by_server!(follow_tables, pg_finfo_follow_tables, at_command_end);
called_by_server!(follow_drops, pg_finfo_follow_drops, at_drop);
called_by_server!(mark_change, pg_finfo_mark_change, mark);

/// What a trigger returns that leaves the row to the server, and an event trigger.
const NOTHING: pg_sys::Datum = pg_sys::Datum::null();

/// # Safety
/// `fcinfo` is the call that the server is making.
unsafe fn count(fcinfo: pg_sys::FunctionCallInfo) -> Result<pg_sys::Datum, Error> {
    // SAFETY: by contract.
    unsafe { Firing::of(fcinfo) }.and_then(|firing| rows::count(&firing)).map(|()| NOTHING)
}

/// # Safety
/// As for `count`.
unsafe fn mark(fcinfo: pg_sys::FunctionCallInfo) -> Result<pg_sys::Datum, Error> {
    // SAFETY: by contract.
    unsafe { Firing::of(fcinfo) }.and_then(|firing| firing.mark())
}

/// # Safety
/// As for `count`.
unsafe fn at_command_end(fcinfo: pg_sys::FunctionCallInfo) -> Result<pg_sys::Datum, Error> {
    // SAFETY: by contract.
    unsafe { TableCommand::of(fcinfo) }.and_then(|command| rows::follow_tables(&command)).map(|()| NOTHING)
}

/// # Safety
/// As for `count`.
unsafe fn at_drop(fcinfo: pg_sys::FunctionCallInfo) -> Result<pg_sys::Datum, Error> {
    // SAFETY: by contract.
    unsafe { event_trigger(fcinfo) }.and_then(|()| rows::follow_drops()).map(|()| NOTHING)
}

/// NE007 where the call is not one of an event trigger.
///
/// # Safety
/// `fcinfo` is the call that the server is making.
unsafe fn event_trigger(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), Error> {
    // SAFETY: by contract; the context is NULL or a node, whose tag tells its type.
    let is_event = unsafe {
        let context = (*fcinfo).context;
        !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_EventTriggerData
    };
    if is_event { Ok(()) } else { Err(Error::argument("call", "only event triggers call this function")) }
}
