//! A connection, from its accept to its end.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use tokio::time::sleep;
use tower_layer::Layer;

use super::{
    Awaited, Shutdown, ShutdownLayer, unless,
    uses::{Use, Uses},
};

/// A connection that a [`Shutdown`] waits for. It is the layer for the service on it, and drives it
/// to its end.
#[must_use = "once it is dropped, the server no longer waits for the connection"]
pub struct OpenConnection {
    shutdown: Shutdown,
    open: Use,
}

impl OpenConnection {
    pub(super) fn new(shutdown: Shutdown) -> Self {
        let open = Uses::new(Arc::clone(&shutdown.state)).begin();
        Self { shutdown, open }
    }

    /// Serves the connection to its end. When the server stops or nobody has used the connection
    /// for long, `leave` asks it to end after the requests that are under way: for hyper's
    /// connections, `|http| http.graceful_shutdown()`.
    pub async fn serve<C: Future>(
        self,
        connection: C,
        leave: impl FnOnce(Pin<&mut C>),
    ) -> C::Output {
        let (mut connection, mut leave) = (pin!(connection), Some(leave));
        let mut enough = pin!(self.enough());
        poll_fn(|context| {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended);
            }
            let is_enough = leave.is_some() && enough.as_mut().poll(context).is_ready();
            match leave.take_if(|_| is_enough) {
                None => Poll::Pending,
                Some(leave) => {
                    leave(connection.as_mut());
                    connection.as_mut().poll(context)
                }
            }
        })
        .await
    }

    async fn enough(&self) {
        let stopping = async {
            self.shutdown.stopping().await;
            sleep(self.shutdown.linger).await;
        };
        let idle = self.open.of().idle(1, self.shutdown.idle_max);
        unless(stopping, idle).await;
    }
}

impl<S> Layer<S> for OpenConnection {
    type Service = Awaited<S>;

    fn layer(&self, inner: S) -> Awaited<S> {
        ShutdownLayer::new(Arc::clone(self.open.of())).layer(inner)
    }
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenConnection")
    }
}
