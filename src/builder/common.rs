//! What all gates of a stack have in common.

use std::sync::Arc;

use crate::{
    guard::{Gate, Policy, course::Several},
    rate_limit::{RateLimitLayer, RateLimitPolicy},
    store::RateStore,
    wire::ClientAddress,
};

/// Settings that apply to every gate of the stack.
pub(super) struct Common {
    pub(super) address: ClientAddress,
    pub(super) shadow: bool,
    pub(super) rate_store: Option<Arc<dyn RateStore>>,
    pub(super) rate_scope: Option<Box<str>>,
}

impl Common {
    /// Gives a limit the gate's store, if there is one, under its name in the gate's scope.
    pub(super) fn limit(&self, layer: RateLimitLayer, name: &str) -> Gate<RateLimitPolicy> {
        let layer = match (&self.rate_store, &self.rate_scope) {
            (None, _) => layer,
            (Some(store), None) => layer.inherit_store(name, store),
            (Some(store), Some(scope)) => layer.inherit_store(&format!("{scope}/{name}"), store),
        };
        layer.into_gate()
    }

    /// The added limits, by name.
    pub(super) fn limits(
        &self,
        limits: impl IntoIterator<Item = (Box<str>, RateLimitLayer)>,
    ) -> Several<RateLimitPolicy> {
        let limits = limits.into_iter();
        let gates = limits.map(|(name, layer)| self.limit(layer, &name));
        Several::new(gates.filter_map(|gate| self.gate(Some(gate))))
    }

    pub(super) fn gate<P: Policy + Clone>(&self, gate: Option<Gate<P>>) -> Option<Gate<P>> {
        let gate = gate?.map_policy(|policy| policy.inherit_address(&self.address));
        Some(if self.shadow { gate.shadow() } else { gate })
    }
}
