//! The settings that all layers share: skipped requests, shadow mode, the format of refusals.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, HeaderName, Method};
use tower_layer::Layer;

use super::{Guard, Policy, event::Counted};
use crate::wire::{Denials, RequestHead};

pub(crate) type Skip = Arc<dyn Fn(&RequestHead<'_>) -> bool + Send + Sync>;

/// A policy with the settings that every layer has. As a [`Layer`] it makes a [`Guard`]; cloning it
/// increments a reference count.
pub struct Gate<P>(Arc<Settings<P>>);

struct Settings<P> {
    policy: P,
    skips: Vec<Skip>,
    shadow: bool,
    denials: Denials,
    counted: Counted,
    hides: bool,
    /// The fields that are hidden, once the first request is let through.
    hidden: OnceLock<Box<[HeaderName]>>,
}

impl<P> Gate<P> {
    /// A gate that skips no request, and refuses with problem details (RFC 9457).
    #[must_use]
    pub fn new(policy: P) -> Self {
        Self(Arc::new(Settings {
            policy,
            skips: Vec::new(),
            shadow: false,
            denials: Denials::default(),
            counted: Counted::default(),
            hides: false,
            hidden: OnceLock::new(),
        }))
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &P {
        &self.0.policy
    }

    pub(crate) fn denials(&self) -> &Denials {
        &self.0.denials
    }

    pub(crate) fn is_shadow(&self) -> bool {
        self.0.shadow
    }

    pub(super) fn hides_credentials(&self) -> bool {
        self.0.hides
    }

    pub(super) fn counted(&self) -> &Counted {
        &self.0.counted
    }

    pub(crate) fn skips(&self, head: &RequestHead<'_>) -> bool {
        self.0.skips.iter().any(|skip| skip(head))
    }
}

impl<P: Policy> Gate<P> {
    /// Takes the credentials out of a request that is let through, where they are to be hidden.
    pub(super) fn hide_in(&self, headers: &mut HeaderMap) {
        if !self.0.hides {
            return;
        }
        let hidden = || self.policy().places().hidden();
        for name in self.0.hidden.get_or_init(hidden) {
            headers.remove(name);
        }
    }
}

impl<P: Clone> Gate<P> {
    /// Skips requests for which `skip` returns true: this layer does nothing to them.
    #[must_use]
    pub fn skip(self, skip: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.change(|settings| settings.skips.push(Arc::new(skip)))
    }

    /// Skips requests whose full path is exactly one of `paths`.
    #[must_use]
    pub fn skip_paths<'a>(self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        let skip = on_paths(paths);
        self.change(|settings| settings.skips.push(skip))
    }

    /// Skips CORS preflight requests: `OPTIONS` with `origin` and `access-control-request-method`.
    ///
    /// Use this for a service that answers preflights itself. A layer that answers them belongs
    /// outside the gate, so that none arrives here. Inside it, refusals would lack
    /// `access-control-allow-origin`, and a page couldn't tell whether it is a 401, a 402 or a 429.
    #[must_use]
    pub fn skip_preflight(self) -> Self {
        self.skip(is_preflight)
    }

    /// Decides, logs and counts, but lets everything through: for trying out a limit before it is
    /// enforced. A request that would have been refused carries everything that handlers rely on
    /// ([`Policy::mark_unadmitted`]) except a principal: an unauthenticated caller stays
    /// unauthenticated.
    #[must_use]
    pub fn shadow(self) -> Self {
        self.change(|settings| settings.shadow = true)
    }

    /// The format of refusals.
    #[must_use]
    pub fn with_denials(self, denials: impl Into<Denials>) -> Self {
        self.change(|settings| settings.denials = denials.into())
    }

    /// Removes the header fields in which the policy looks for credentials ([`Policy::places`])
    /// from all requests that it lets through: `authorization` if it may look anywhere, and no
    /// `cookie`.
    #[must_use]
    pub fn hide_credentials(self) -> Self {
        self.change(|settings| settings.hides = true)
    }

    /// Changes the policy.
    #[must_use]
    pub fn map_policy(self, change: impl FnOnce(&mut P)) -> Self {
        self.change(|settings| change(&mut settings.policy))
    }

    /// The same settings around another policy.
    pub(crate) fn with_policy<Q>(self, make: impl FnOnce(P) -> Q) -> Gate<Q> {
        let Settings {
            policy,
            skips,
            shadow,
            denials,
            hides,
            ..
        } = Arc::try_unwrap(self.0).unwrap_or_else(|shared| Settings::clone(&shared));
        Gate(Arc::new(Settings {
            policy: make(policy),
            skips,
            shadow,
            denials,
            counted: Counted::default(),
            hides,
            hidden: OnceLock::new(),
        }))
    }

    fn change(mut self, change: impl FnOnce(&mut Settings<P>)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

/// Whether a request's full path is one of `paths`.
pub(crate) fn on_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Skip {
    let paths: Vec<Box<str>> = paths.into_iter().map(Into::into).collect();
    Arc::new(move |head| paths.iter().any(|path| path.as_ref() == head.path()))
}

/// Whether it is a CORS preflight request.
pub(crate) fn is_preflight(head: &RequestHead<'_>) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key("origin")
        && head.headers.contains_key("access-control-request-method")
}

impl<P: Clone> Clone for Settings<P> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy.clone(),
            skips: self.skips.clone(),
            shadow: self.shadow,
            denials: self.denials.clone(),
            counted: Counted::default(),
            hides: self.hides,
            hidden: OnceLock::new(),
        }
    }
}

impl<P> Clone for Gate<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: fmt::Debug> fmt::Debug for Gate<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("policy", &self.0.policy)
            .field("shadow", &self.0.shadow)
            .finish_non_exhaustive()
    }
}

impl<S, P: Policy> Layer<S> for Gate<P> {
    type Service = Guard<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard::new(inner, self.clone())
    }
}

/// Gives a layer around a `gate: Gate<Policy>` the settings that all layers have, and implements
/// `Layer`.
macro_rules! layer {
    ($layer:ident, $policy:ty) => {
        impl $layer {
            /// Skips requests for which `skip` returns true: this layer does nothing to them.
            #[must_use]
            pub fn skip(
                self,
                skip: impl Fn(&$crate::wire::RequestHead<'_>) -> bool + Send + Sync + 'static,
            ) -> Self {
                Self {
                    gate: self.gate.skip(skip),
                }
            }

            /// Skips requests whose full path is exactly one of `paths`.
            #[must_use]
            pub fn skip_paths<'a>(self, paths: impl IntoIterator<Item = &'a str>) -> Self {
                Self {
                    gate: self.gate.skip_paths(paths),
                }
            }

            /// Skips CORS preflight requests, for a service that answers them further in. The layer
            /// that answers them is better placed outside the gate, and then this isn't needed: see
            /// [`Gate::skip_preflight`](crate::guard::Gate::skip_preflight).
            #[must_use]
            pub fn skip_preflight(self) -> Self {
                Self {
                    gate: self.gate.skip_preflight(),
                }
            }

            /// Decides, logs and counts, but lets everything through.
            #[must_use]
            pub fn shadow(self) -> Self {
                Self {
                    gate: self.gate.shadow(),
                }
            }

            /// The format of refusals; problem details (RFC 9457) unless set.
            #[must_use]
            pub fn denials(self, denials: impl Into<$crate::wire::Denials>) -> Self {
                Self {
                    gate: self.gate.with_denials(denials),
                }
            }
        }

        impl<S> tower_layer::Layer<S> for $layer {
            type Service = $crate::guard::Guard<S, $crate::guard::Gate<$policy>>;

            fn layer(&self, inner: S) -> Self::Service {
                self.gate.layer(inner)
            }
        }
    };
}

pub(crate) use layer;
