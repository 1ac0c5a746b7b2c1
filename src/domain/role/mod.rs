//! Permissions, roles, and which role holds which permissions.

mod permission;
mod requirement;
mod set;
mod text;

pub use permission::Permission;
pub use requirement::Requirement;
pub use set::RoleSet;
pub use text::InvalidRoles;

pub(crate) use requirement::Rule;
