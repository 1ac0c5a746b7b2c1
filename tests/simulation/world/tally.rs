//! What happened.

/// How often things happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(super) granted: usize,
    pub(super) refused: usize,
    pub(super) settled: usize,
    pub(super) settled_again: usize,
    pub(super) lost: usize,
    pub(super) expired: usize,
    pub(super) charged_late: usize,
    pub(super) calls_done: usize,
    pub(super) calls_dropped: usize,
    pub(super) clock_set: usize,
    pub(super) paid_again: usize,
    pub(super) given_back: usize,
    pub(super) given_back_again: usize,
    pub(super) alerts: usize,
    /// Settlements that crossed several soft limits of one window.
    pub(super) alerts_together: usize,
    /// Of calls that ended without their owner.
    pub(super) alerts_of_expired: usize,
}

impl Tally {
    fn counts(&self) -> [usize; 16] {
        [
            self.granted,
            self.refused,
            self.settled,
            self.settled_again,
            self.lost,
            self.expired,
            self.charged_late,
            self.calls_done,
            self.calls_dropped,
            self.clock_set,
            self.paid_again,
            self.given_back,
            self.given_back_again,
            self.alerts,
            self.alerts_together,
            self.alerts_of_expired,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.granted += other.granted;
        self.refused += other.refused;
        self.settled += other.settled;
        self.settled_again += other.settled_again;
        self.lost += other.lost;
        self.expired += other.expired;
        self.charged_late += other.charged_late;
        self.calls_done += other.calls_done;
        self.calls_dropped += other.calls_dropped;
        self.clock_set += other.clock_set;
        self.paid_again += other.paid_again;
        self.given_back += other.given_back;
        self.given_back_again += other.given_back_again;
        self.alerts += other.alerts;
        self.alerts_together += other.alerts_together;
        self.alerts_of_expired += other.alerts_of_expired;
    }

    pub(crate) fn assert_all_happened(&self) {
        assert!(self.counts().iter().all(|count| *count > 100), "{self:?}");
    }
}
