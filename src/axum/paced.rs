//! Timeouts for slow bodies.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::wire::Pace;

/// The error of a body that arrived too slowly.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body came too slowly")
    }
}

impl Error for TooSlow {}

impl TooSlow {
    /// Whether this is among the causes of an error.
    pub(super) fn is_cause_of(error: &(dyn Error + 'static)) -> bool {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<Self>() {
                return true;
            }
            next = error.source();
        }
        false
    }
}

/// A body that fails if it arrives too slowly.
#[pin_project]
pub(super) struct Paced<B> {
    #[pin]
    body: B,
    pace: Pace,
}

impl<B> Paced<B> {
    pub(super) fn new(body: B) -> Self {
        Self {
            body,
            pace: Pace::default(),
        }
    }
}

impl<B: Body> Body for Paced<B>
where
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.body.poll_frame(context) {
            this.pace.made_progress();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(this.pace.poll_timeout(context));
        Poll::Ready(Some(Err(TooSlow.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        convert::Infallible,
        future::{Future, poll_fn},
        time::Duration,
    };

    use bytes::Bytes;
    use tokio::time::{Instant, Sleep, sleep};

    use super::*;

    /// A letter after each of these silences, and then nothing for ever.
    struct Halting(VecDeque<Pin<Box<Sleep>>>, Vec<Duration>);

    impl Halting {
        fn new(silences: &[u64]) -> Paced<Self> {
            let silences = silences.iter().rev().copied().map(Duration::from_secs);
            let body = Self(VecDeque::new(), silences.collect());
            Paced {
                body,
                pace: Pace::default(),
            }
        }
    }

    impl Body for Halting {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.0.is_empty() {
                let Some(silence) = self.1.pop() else {
                    return Poll::Pending;
                };
                self.0.push_back(Box::pin(sleep(silence)));
            }
            ready!(self.0[0].as_mut().poll(context));
            self.0.clear();
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"a")))))
        }
    }

    /// How many letters came, and when it was given up.
    async fn read(silences: &[u64]) -> (usize, Duration) {
        let (mut body, began) = (Box::pin(Halting::new(silences)), Instant::now());
        let mut came = 0;
        while poll_fn(|context| body.as_mut().poll_frame(context))
            .await
            .expect("it never ends")
            .is_ok()
        {
            came = usize::saturating_add(came, 1);
        }
        (came, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_falls_silent_is_given_up() {
        let secs = Duration::from_secs;
        for (silences, came, at) in [
            (&[][..], 0, 10),
            (&[0, 9], 2, 19),
            (&[9, 9, 9], 3, 30),
            (&[1; 60], 30, 30),
            (&[11], 0, 10),
        ] {
            let (read, given_up) = read(silences).await;
            assert_eq!(read, came, "{silences:?}");
            assert!(
                given_up >= secs(at) && given_up < secs(at + 1),
                "{given_up:?}"
            );
        }
    }
}
