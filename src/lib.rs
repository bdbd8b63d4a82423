//! entitlements: what each account may do, how much of it, until when and why, decided inside the application's own database.
//!
//! Each folder is a capability and only adapts SQL to the domain in `crates/`; `pg` is the only place of unsafe code. The SQL
//! objects are written in `sql/`, which reads top to bottom: tables, then functions with their comments, then privileges.

mod accounts;
mod audit;
mod bundle;
mod catalog;
mod check;
mod error;
mod guard;
mod licence;
mod meter;
mod operations;
mod pg;
mod row;

use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/00_requirements.sql", name = "00_requirements");
extension_sql_file!("../sql/10_catalog.sql", name = "10_catalog", requires = ["00_requirements"]);
extension_sql_file!("../sql/20_accounts.sql", name = "20_accounts", requires = ["10_catalog"]);
extension_sql_file!("../sql/30_audit.sql", name = "30_audit", requires = ["20_accounts"]);
extension_sql_file!("../sql/40_types.sql", name = "40_types", requires = ["30_audit"]);
extension_sql_file!("../sql/45_meter.sql", name = "45_meter", requires = ["40_types"]);
extension_sql_file!("../sql/50_check.sql", name = "50_check", requires = ["45_meter"]);
extension_sql_file!("../sql/55_explain.sql", name = "55_explain", requires = ["50_check"]);
extension_sql_file!("../sql/57_consume.sql", name = "57_consume", requires = ["55_explain"]);
extension_sql_file!("../sql/58_credits.sql", name = "58_credits", requires = ["57_consume"]);
extension_sql_file!("../sql/59_reservations.sql", name = "59_reservations", requires = ["58_credits"]);
extension_sql_file!("../sql/60_catalog_functions.sql", name = "60_catalog_functions", requires = ["59_reservations"]);
extension_sql_file!("../sql/61_seats.sql", name = "61_seats", requires = ["60_catalog_functions"]);
extension_sql_file!("../sql/62_rates.sql", name = "62_rates", requires = ["61_seats"]);
extension_sql_file!("../sql/64_guard.sql", name = "64_guard", requires = ["62_rates"]);
extension_sql_file!("../sql/65_protect.sql", name = "65_protect", requires = ["64_guard"]);
extension_sql_file!("../sql/66_rows.sql", name = "66_rows", requires = ["65_protect"]);
extension_sql_file!("../sql/70_account_functions.sql", name = "70_account_functions", requires = ["66_rows"]);
extension_sql_file!("../sql/80_audit_functions.sql", name = "80_audit_functions", requires = ["70_account_functions"]);
extension_sql_file!("../sql/85_operations.sql", name = "85_operations", requires = ["80_audit_functions"]);
extension_sql_file!("../sql/86_bundles.sql", name = "86_bundles", requires = ["85_operations"]);
extension_sql_file!("../sql/87_licences.sql", name = "87_licences", requires = ["86_bundles"]);
extension_sql_file!("../sql/88_access.sql", name = "88_access", requires = ["87_licences"]);
extension_sql_file!("../sql/89_change_marks.sql", name = "89_change_marks", requires = ["88_access"]);
extension_sql_file!("../sql/90_privileges.sql", name = "90_privileges", requires = ["89_change_marks"]);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::settings::define();
    if pg::shared_memory::is_preloading() {
        pg::settings::define_shared();
        pg::shared_memory::reserve();
    }
    pg::callbacks::register();
}
