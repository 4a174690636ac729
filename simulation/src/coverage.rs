//! What a run has seen. A simulation that is never in the dangerous places proves nothing: tests demand that each of
//! these is seen.

macro_rules! seen {
    ($($(#[$doc:meta])* $name:ident => $words:literal,)+) => {
        /// Something that happened in a run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Seen {
            $($(#[$doc])* $name,)+
        }

        impl Seen {
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)+ }
            }
        }
    };
}

seen! {
    Crash => "crashes of a process",
    WorkLost => "pieces of work lost in a crash",
    Outage => "outages of a whole service",
    Freeze => "processes frozen for a while",
    DatabaseAway => "databases away for a while",
    BrokerAway => "brokers away for a while",
    BrokerForgets => "brokers that forgot all",
    Rebalance => "rebalances",
    Redelivery => "records delivered again after a rebalance",
    CommandLost => "commands lost on the way",
    CommandDoubled => "commands doubled on the way",
    ReplyLost => "replies that Kafka did not take",
    ForgedReply => "replies that contradict their saga, set aside",
    AcknowledgementLost => "replies taken whose acknowledgement was lost",
    StatementFailed => "statements that failed",
    StatementUnknown => "statements that took effect and seemed to fail",
    RequestLost => "HTTP requests lost",
    RequestDoubled => "HTTP requests doubled on the way",
    AnswerLost => "HTTP answers lost",
    OrderServiceAway => "HTTP calls that nobody took",
    GatewayFailed => "gateway calls that failed undecided",
    GatewayAnswerLost => "gateway calls decided whose answer was lost",
    GatewaySlow => "gateway calls that took long",
    Declined => "charges declined",
    RefundRefused => "refunds refused for good",
    SoldOut => "reservations refused",
    OrderCancelledByHand => "orders cancelled behind the saga's back",
    Repetition => "effects repeated by the sweeper",
    DeadlinePassed => "deadlines that passed",
    NeedsAttention => "sagas marked as needing attention",
    CancelledByOperator => "sagas cancelled by an operator",
    RetriedByOperator => "sagas retried by an operator",
    ResolvedByOperator => "compensations resolved by an operator",
    OperatorTooLate => "operators who came too late",
    StaleCache => "inputs decided on a stale cache first",
    SagaRaceLost => "moves of a saga that lost a race",
    InputIgnored => "inputs that did not count",
    StartedTwice => "starts of a saga that was stored before",
    NeverStored => "checkouts of which nothing was stored",
    PaymentRaceLost => "writes of a payment that lost a race",
    ReservationRaceLost => "writes of a reservation that lost a race",
    OrderRaceLost => "writes of an order that lost a race",
    PaymentTombstone => "refunds before their charge",
    ReservationTombstone => "releases before their reserve",
    OrderTombstone => "cancels before their create",
    LateCharge => "charges refused because of a tombstone",
    LateReserve => "reserves refused because of a tombstone",
    LateCreate => "creates refused because of a tombstone",
    RefundMeetsCharge => "refunds that met a charge in flight",
    ReplyRepeated => "replies repeated",
    Released => "goods released",
    Refunded => "money refunded",
    Cancelled => "orders cancelled",
    EndCompleted => "ended COMPLETED",
    EndPaymentFailed => "ended PAYMENT_FAILED",
    EndInventoryFailed => "ended INVENTORY_FAILED",
    EndTimedOut => "ended TIMED_OUT",
    EndCancelled => "ended CANCELLED",
    EndOrderRefused => "ended ORDER_REFUSED",
}

/// How often each was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage([u64; Seen::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; Seen::ALL.len()])
    }
}

impl Coverage {
    pub fn add(&mut self, seen: Seen) {
        self.0[seen as usize] += 1;
    }

    pub fn of(&self, seen: Seen) -> u64 {
        self.0[seen as usize]
    }

    pub fn merge(&mut self, other: &Self) {
        for (total, more) in self.0.iter_mut().zip(other.0) {
            *total += more;
        }
    }
}
