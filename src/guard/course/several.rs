//! Any number of gates of one kind.

use std::{sync::Arc, task::Context};

use http::{HeaderMap, Request};

use super::{Admission, Answer, Course, Passed, Progress, both, sealed};
use crate::{
    guard::{BodyEnd, Gate, Meter, PendingVerdict, Permit, Policy},
    store::StoreFuture,
};

/// Gates of one kind, one after the other. With none, it costs nothing.
#[derive(Clone, Debug)]
pub struct Several<P>(Arc<[Gate<P>]>);

impl<P> Several<P> {
    pub(crate) fn new(gates: impl IntoIterator<Item = Gate<P>>) -> Self {
        Self(gates.into_iter().collect())
    }
}

/// The permits of [`Several`] gates: of those passed so far.
#[derive(Debug)]
pub struct AllPassed<P>(Vec<Passed<P>>);

impl<P> Default for AllPassed<P> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// The meters of [`Several`] gates.
#[derive(Debug)]
pub struct AllMeters<M>(Vec<Option<M>>);

impl<M> Default for AllMeters<M> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<P> sealed::Sealed for Several<P> {}

impl<P: Policy + Clone> Course for Several<P> {
    type Admission = AllPassed<P::Permit>;
    /// The last permit belongs to the gate that waits.
    type Waiting = PendingVerdict<P::Permit>;

    fn enter<B>(
        &self,
        request: &mut Request<B>,
        AllPassed(passed): &mut Self::Admission,
    ) -> Progress<Self::Waiting> {
        while let Some(gate) = self.0.get(passed.len()) {
            let mut proof = Passed::default();
            let progress = gate.enter(request, &mut proof);
            passed.push(proof);
            if !matches!(progress, Progress::Admitted) {
                return progress;
            }
        }
        Progress::Admitted
    }

    fn resume<B>(
        &self,
        waiting: Self::Waiting,
        request: &mut Request<B>,
        admission: &mut Self::Admission,
        context: &mut Context<'_>,
    ) -> Progress<Self::Waiting> {
        let mut progress = Progress::Waiting(waiting);
        while let Progress::Waiting(waiting) = progress {
            let last = admission.0.len().checked_sub(1);
            let gate = last.and_then(|last| self.0.get(last));
            let (Some(gate), Some(proof)) = (gate, admission.0.last_mut()) else {
                return Progress::Waiting(waiting);
            };
            match gate.resume(waiting, request, proof, context) {
                // The next gate may have just started to wait: poll it, or nothing would wake it.
                Progress::Admitted => progress = self.enter(request, admission),
                progress => return progress,
            }
        }
        progress
    }
}

impl<P> sealed::Sealed for AllPassed<P> {}

impl<P: Permit> Admission for AllPassed<P> {
    type Meter = AllMeters<P::Meter>;

    const TELLS_LIMITS: bool = P::TELLS_LIMITS;
    /// Usually there are no gates.
    const FIELDS: usize = 0;

    fn mark(&mut self, answer: &mut Answer<'_>, meter: &mut Self::Meter) {
        for proof in self.0.iter_mut().rev() {
            let mut left = None;
            let was_replaced = answer.replaced.is_some();
            proof.mark(answer, &mut left);
            if !was_replaced && answer.replaced.is_some() {
                meter.0.clear();
            }
            meter.0.push(left);
        }
    }

    fn inner_failed(&mut self) {
        for proof in self.0.iter_mut().rev() {
            proof.inner_failed();
        }
    }
}

impl<M: Meter> Meter for AllMeters<M> {
    fn data(&mut self, piece: &[u8]) {
        self.0.iter_mut().for_each(|meter| meter.data(piece));
    }

    fn unseen(&mut self, bytes: usize) {
        self.0.iter_mut().for_each(|meter| meter.unseen(bytes));
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        self.0.iter_mut().for_each(|meter| meter.trailers(trailers));
    }

    fn end(self, how: BodyEnd) -> Option<StoreFuture<()>> {
        let ends = self.0.into_iter().map(|meter| meter.end(how));
        ends.fold(None, both)
    }
}
