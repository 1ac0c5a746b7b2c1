//! Misspelt roles and permissions.

use tollgate::{
    AuthenticateLayer, RbacLayer, Tollgate, TollgateBuilder, guard::Authenticator,
    rbac::RouteTable, role::RoleSet,
};

type Gate = TollgateBuilder<<AuthenticateLayer as Authenticator>::Policy>;

#[test]
fn a_gate_that_asks_for_what_nobody_has_is_not_built() {
    let roles = RoleSet::viewer_operator_admin();
    let gate = || Tollgate::builder().authenticate(AuthenticateLayer::found_outside());
    let refused = |builder: Gate| builder.build().unwrap_err().to_string();
    let table = |permission: &str| RouteTable::new().route("POST", "/a", permission).unwrap();
    let routes = |permission| gate().authorize(RbacLayer::routes(&roles, table(permission)));
    assert_eq!(
        refused(gate().require(&roles, "raed")),
        "require: no role holds raed"
    );
    assert_eq!(
        refused(routes("raed")),
        "authorize: route POST /a: no role holds raed"
    );
    assert!(routes("read").build().is_ok());
    assert!(gate().authorize(RbacLayer::role("admins")).build().is_ok());
}
