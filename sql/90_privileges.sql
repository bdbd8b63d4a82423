-- Nobody may do anything until grant_access says so. The tables are never granted.

REVOKE ALL ON SCHEMA entitlements FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA entitlements FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA entitlements FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA entitlements FROM PUBLIC;
