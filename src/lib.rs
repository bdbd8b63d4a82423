//! entitlements: what each account may do, how much of it, until when and why, decided inside the application's own database.
//!
//! Each folder is a capability and only adapts SQL to the domain in `crates/`; `pg` is the only place of unsafe code. The SQL
//! objects are written in `sql/`, which reads top to bottom: tables, then functions with their comments, then privileges.

mod accounts;
mod audit;
mod catalog;
mod check;
mod error;
mod pg;

use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/00_requirements.sql", name = "00_requirements");
extension_sql_file!("../sql/10_catalog.sql", name = "10_catalog", requires = ["00_requirements"]);
extension_sql_file!("../sql/20_accounts.sql", name = "20_accounts", requires = ["10_catalog"]);
extension_sql_file!("../sql/30_audit.sql", name = "30_audit", requires = ["20_accounts"]);
extension_sql_file!("../sql/40_types.sql", name = "40_types", requires = ["30_audit"]);
extension_sql_file!("../sql/50_check.sql", name = "50_check", requires = ["40_types"]);
extension_sql_file!("../sql/55_explain.sql", name = "55_explain", requires = ["50_check"]);
extension_sql_file!("../sql/60_catalog_functions.sql", name = "60_catalog_functions", requires = ["55_explain"]);
extension_sql_file!("../sql/70_account_functions.sql", name = "70_account_functions", requires = ["60_catalog_functions"]);
extension_sql_file!("../sql/80_audit_functions.sql", name = "80_audit_functions", requires = ["70_account_functions"]);
extension_sql_file!("../sql/90_privileges.sql", name = "90_privileges", requires = ["80_audit_functions"]);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::settings::define();
    pg::callbacks::register();
}
