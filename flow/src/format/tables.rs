//! The format of a flow file, key by key.

use super::kind::{Kind, Record, Sort, optional, required};
use crate::shape::ShapeKind;

/// The format that is described here. A file names it in `format`.
pub const FORMAT: i64 = 1;

/// The most steps of one flow.
pub const MAX_STEPS: usize = 32;

macro_rules! sort {
    ($name:ident, $what:literal, $written:literal, $pattern:literal) => {
        pub static $name: Sort = Sort { what: $what, written: $written, pattern: $pattern };
    };
}

sort!(FLOW, "a flow", "lower-case letters, digits and `-`, at most 40, a letter first", "^[a-z][a-z0-9-]{0,39}$");
sort!(STEP, "a step", "capitals, digits and `_`, at most 40, a letter first", "^[A-Z][A-Z0-9_]{0,39}$");
sort!(CAUSE, "a cause", "capitals, digits and `_`, at most 40, a letter first", "^[A-Z][A-Z0-9_]{0,39}$");
sort!(
    FIELD,
    "a field",
    "letters and digits, at most 40, a lower-case letter first (`userId`)",
    "^[a-z][A-Za-z0-9]{0,39}$"
);
sort!(
    TOPIC,
    "a topic or an event",
    "words of lower-case letters, digits and `-`, joined by `.`, at most 100",
    r"^(?:[a-z][a-z0-9-]*\.)+[a-z][a-z0-9-]*$"
);
sort!(
    EVENT,
    "what happens in a test",
    "an event, a signal, `late` or `cancel`",
    r"^(?:(?:[a-z][a-z0-9-]*\.)+[a-z][a-z0-9-]*|late|cancel)$"
);
sort!(ACTION, "a built-in action", "`order.` and a word", r"^order\.[a-z][a-z-]*$");
sort!(STATUS, "an order's status", "capitals and `_`", "^[A-Z][A-Z_]{0,39}$");
sort!(ROUTE, "a route", "`/` and words of lower-case letters", "^(?:/[a-z][a-z-]*)+$");
sort!(
    OUTCOME,
    "a cause, or `otherwise`",
    "capitals, digits and `_`; or `otherwise`",
    "^(?:[A-Z][A-Z0-9_]{0,39}|otherwise)$"
);

const STATUS_CODE: Kind = Kind::Integer { least: 200, most: 599 };
const ACCEPTED: Kind = Kind::Integer { least: 202, most: 202 };

pub static SHAPE: Record = Record {
    what: "the shape of a value",
    keys: &[
        required(
            "type",
            Kind::Word(ShapeKind::NAMES),
            "What the value is. `amount` and `money` are exact decimals; `json` is kept as it came.",
            "amount",
        ),
        optional(
            "optional",
            Kind::Flag,
            "Whether it may be missing. A slot that refers to it then ends in `?`.",
            "true",
        ),
        optional("default", Kind::Constant, "What counts where it is missing.", "USD"),
        optional(
            "max",
            Kind::Bytes,
            "The most characters of a text, 255 unless given, or bytes of `json`, 2KiB unless given.",
            "255",
        ),
        optional(
            "most",
            Kind::Integer { least: 1, most: 1_000_000_000 },
            "The most items of a list, or the greatest count.",
            "100",
        ),
        optional(
            "pattern",
            Kind::Text(200),
            "A regular expression that the whole text has to match: a small one, of a text of at most 1,000 characters.",
            "\"[A-Z]{3}\"",
        ),
        optional(
            "of",
            Kind::Map(&FIELD, &Kind::Record(&SHAPE)),
            "The fields of a list's items, or of a record.",
            "{ sku: { type: sku } }",
        ),
    ],
};

pub static MONEY: Record = Record {
    what: "an amount of money",
    keys: &[
        required("amount", Kind::Slot, "The slot of the amount.", "$input.totalAmount"),
        required("currency", Kind::Slot, "The slot of the currency.", "$input.currency"),
    ],
};

pub static START: Record = Record {
    what: "how a saga starts",
    keys: &[
        optional(
            "route",
            Kind::Name(&ROUTE),
            "A route of its own besides `POST /flows/<flow>`. Only built-in flows have one.",
            "/checkout",
        ),
        optional("topic", Kind::Name(&TOPIC), "Where events come that start a saga each.", "parcel.ordered"),
        required(
            "subject",
            Kind::Name(&FIELD),
            "What a saga is about: a UUIDv7 that stands in every message. It is made with the saga, or brought by the event that starts it.",
            "orderId",
        ),
        required(
            "owner",
            Kind::Slot,
            "Whose saga it is: who may see it, and whose `Idempotency-Key` it has.",
            "$input.userId",
        ),
        optional(
            "money",
            Kind::Record(&MONEY),
            "What it is worth. `$start.money` in a payload.",
            "{ amount: $input.totalAmount, currency: $input.currency }",
        ),
        required(
            "input",
            Kind::Map(&FIELD, &Kind::Record(&SHAPE)),
            "The fields of a request, read strictly.",
            "{ userId: { type: user_id } }",
        ),
    ],
};

pub static CANCEL: Record = Record {
    what: "who may cancel",
    keys: &[
        required("by", Kind::List(&Kind::Word(&["owner", "operator"]), 2), "Who may cancel.", "[owner, operator]"),
        required(
            "until",
            Kind::Name(&STEP),
            "The step at which it is too late; at the pivot at the latest.",
            "ORDER_CONFIRM",
        ),
    ],
};

pub static REPEAT: Record = Record {
    what: "how an effect is repeated",
    keys: &[
        required("first", Kind::Duration, "How long the first answer is waited for.", "2s"),
        required("most", Kind::Duration, "The longest pause between two repetitions.", "10s"),
        required(
            "attention_after",
            Kind::Integer { least: 1, most: 1000 },
            "After how many repetitions a person should look.",
            "10",
        ),
    ],
};

pub static ANSWER: Record = Record {
    what: "the answer",
    keys: &[
        required("after", Kind::Name(&STEP), "The step after which the client is answered.", "ORDER_CONFIRM"),
        optional(
            "final",
            Kind::Flag,
            "`false`: the saga may still turn back behind the answer, and the body says so.",
            "false",
        ),
        required("done", STATUS_CODE, "The HTTP status of success.", "200"),
        required(
            "failed",
            Kind::Map(&OUTCOME, &STATUS_CODE),
            "The HTTP status of each cause, and `otherwise`.",
            "{ PAYMENT_FAILED: 402, otherwise: 409 }",
        ),
        optional(
            "body",
            Kind::Payload,
            "What stands in the answer besides the saga itself.",
            "{ ticket: $FLIGHT_TICKET.ticketNumber }",
        ),
    ],
};

pub static ASK: Record = Record {
    what: "what is asked",
    keys: &[
        optional(
            "topic",
            Kind::Name(&TOPIC),
            "The topic of the command. A user's own begins with the flow's name.",
            "trip.hotel.book.command",
        ),
        optional("action", Kind::Name(&ACTION), "An action of the order service that is built in.", "order.create"),
        optional("send", Kind::Payload, "The command's payload, made of constants and slots.", "{ city: $input.to }"),
    ],
};

pub static REPLY: Record = Record {
    what: "a reply",
    keys: &[
        optional(
            "agrees",
            Kind::Record(&Record {
                what: "what has to agree",
                keys: &[required("money", Kind::Slot, "The reply's `money` has to be this one.", "$start.money")],
            }),
            "What has to agree with the request: a reply that does not is set aside.",
            "{ money: $start.money }",
        ),
        optional(
            "reply",
            Kind::Map(&FIELD, &Kind::Record(&SHAPE)),
            "The fields that are read of the reply. Others are ignored.",
            "{ bookingRef: { type: text, max: 40 } }",
        ),
        optional(
            "keep",
            Kind::List(&Kind::Name(&FIELD), 20),
            "The fields that are stored, for later steps, the undo and the answer.",
            "[bookingRef]",
        ),
    ],
};

pub static REFUSAL: Record = Record {
    what: "a refusal",
    keys: &[
        required("cause", Kind::Name(&CAUSE), "Why the saga turns back. Stored once.", "HOTEL_FULL"),
        optional("reason", Kind::Slot, "The field of the reply that says it for people.", "$reply.reason"),
        optional(
            "undo_this_step",
            Kind::Flag,
            "Whether the refused step is undone as well. Mostly a refusal leaves nothing behind.",
            "true",
        ),
    ],
};

pub static PROGRESS: Record = Record {
    what: "a progress",
    keys: &[
        optional(
            "reply",
            Kind::Map(&FIELD, &Kind::Record(&SHAPE)),
            "The fields that are read of the event.",
            "{ nextAction: { type: json, max: 2KiB } }",
        ),
        optional("keep", Kind::List(&Kind::Name(&FIELD), 20), "The fields that are stored.", "[nextAction]"),
        required("within", Kind::Duration, "The new limit of the step.", "24h"),
        optional("answer", ACCEPTED, "The client's 202 has as much of `answer.body` as there is.", "202"),
    ],
};

pub static WAIT: Record = Record {
    what: "a wait for a signal",
    keys: &[
        required("signal", Kind::Name(&TOPIC), "The kind of signal.", "carrier.scanned"),
        required("match", Kind::Slot, "By which value the signal finds its saga.", "$SHIP.trackingNumber"),
        optional(
            "keep",
            Kind::Map(&FIELD, &Kind::Record(&SHAPE)),
            "The fields of the signal that are stored.",
            "{ paymentMethod: { type: text, max: 255 } }",
        ),
    ],
};

static LATE_UNDO: Record = Record {
    what: "what a passed limit means",
    keys: &[required("undo", Kind::Name(&CAUSE), "Turn back, for this cause.", "NOT_PAID")],
};

pub static UNDO: Record = Record {
    what: "an undo",
    keys: &[
        required(
            "step",
            Kind::Name(&STEP),
            "Its name, which stands in `sagas.step` while it is pending.",
            "HOTEL_CANCEL",
        ),
        required("ask", Kind::Record(&ASK), "What is asked.", "{ topic: trip.hotel.cancel.command }"),
        required("done", DONE, "The event by which it is done. It is repeated until then.", "trip.hotel.cancelled"),
    ],
};

pub static WORDS: Record = Record {
    what: "sentences for people",
    keys: &[
        optional(
            "done",
            Kind::Text(200),
            "It was done. `{field}` is a kept value, or `{money}`.",
            "\"Hotel booked ({bookingRef})\"",
        ),
        optional("refused", Kind::Text(200), "It was refused. `{reason}` says why.", "\"The hotel is full: {reason}\""),
        optional("undone", Kind::Text(200), "It was undone.", "\"The hotel was cancelled\""),
        optional(
            "undone_unknown",
            Kind::Text(200),
            "It was undone without knowing whether it had been done.",
            "\"The hotel was cancelled, if it was booked\"",
        ),
    ],
};

const DONE: Kind = Kind::Either(&[Kind::Name(&TOPIC), Kind::Map(&TOPIC, &Kind::Record(&REPLY))]);

pub static STEP_RECORD: Record = Record {
    what: "a step",
    keys: &[
        required(
            "step",
            Kind::Name(&STEP),
            "Its name, which stands in `sagas.step` while it is pending.",
            "HOTEL_BOOK",
        ),
        optional("order", Kind::Name(&STATUS), "The order's status from here on.", "RESERVED"),
        optional("within", Kind::Duration, "How long it may take. Needed before the pivot.", "60s"),
        optional(
            "late",
            Kind::Either(&[Kind::Word(&["undo", "attention", "go_on"]), Kind::Record(&LATE_UNDO)]),
            "What a passed limit means: `undo` unless given.",
            "attention",
        ),
        optional(
            "ask",
            Kind::Record(&ASK),
            "What is asked of a participant. A step has `ask` or `wait`.",
            "{ topic: trip.hotel.book.command }",
        ),
        optional(
            "wait",
            Kind::Record(&WAIT),
            "The signal that is waited for.",
            "{ signal: warehouse.packed, match: $start.subject }",
        ),
        optional(
            "done",
            DONE,
            "The event by which it is done, or several, with what is read of them. Needed with `ask`.",
            "trip.car.rented",
        ),
        optional(
            "refused",
            Kind::Map(&TOPIC, &Kind::Record(&REFUSAL)),
            "The events that refuse it.",
            "{ trip.car.none: { cause: NO_CAR } }",
        ),
        optional(
            "progress",
            Kind::Map(&TOPIC, &Kind::Record(&PROGRESS)),
            "The events that move nothing but give it more time.",
            "{ fraud.review: { within: 24h } }",
        ),
        optional(
            "undo",
            Kind::Either(&[Kind::Word(&["none"]), Kind::Record(&UNDO)]),
            "How it is undone. `none` where there is nothing to undo; a comment says why.",
            "none",
        ),
        optional("words", Kind::Record(&WORDS), "What people read of it.", "{ done: \"Car rented\" }"),
    ],
};

pub static TEST: Record = Record {
    what: "a test",
    keys: &[
        required("name", Kind::Text(200), "What it shows.", "no seat, so car and hotel go back"),
        required("input", Kind::Payload, "The request.", "{ traveller: ann }"),
        required(
            "replies",
            Kind::List(&Kind::Name(&EVENT), 64),
            "What happens, in order: events, signals, `late` where the pending step's limit passes, `cancel`.",
            "[trip.hotel.booked, trip.car.none]",
        ),
        required(
            "path",
            Kind::List(&Kind::Text(90), 66),
            "The states that the saga passes, `FAILED/<cause>` or `COMPLETED` at the end.",
            "[HOTEL_BOOK, FAILED/HOTEL_FULL]",
        ),
        optional("answer", STATUS_CODE, "The HTTP status of the client's answer.", "409"),
    ],
};

/// The whole file.
pub static FILE: Record = Record {
    what: "a flow file",
    keys: &[
        required("format", Kind::Integer { least: FORMAT, most: FORMAT }, "The format of the file.", "1"),
        required("flow", Kind::Name(&FLOW), "The flow's name.", "trip"),
        required(
            "version",
            Kind::Integer { least: 1, most: 1_000_000 },
            "Its version. A version that was published never changes.",
            "1",
        ),
        required(
            "start",
            Kind::Record(&START),
            "How a saga starts.",
            "{ subject: tripId, owner: $input.traveller, input: {} }",
        ),
        required(
            "pivot",
            Kind::Name(&STEP),
            "The step from which nothing times out and nothing is cancelled: only a definite refusal of it turns back.",
            "FLIGHT_TICKET",
        ),
        optional("reach_pivot_within", Kind::Duration, "How long a saga may take to its pivot.", "90s"),
        optional(
            "reach_answer_within",
            Kind::Duration,
            "How long a saga may take to an answer before its pivot. Time at a step that waits or has reported progress is not counted.",
            "20m",
        ),
        optional(
            "cancel",
            Kind::Record(&CANCEL),
            "Who may cancel, and until when.",
            "{ by: [owner, operator], until: FLIGHT_TICKET }",
        ),
        optional(
            "repeat",
            Kind::Record(&REPEAT),
            "How an effect is repeated that is not answered.",
            "{ first: 2s, most: 10s, attention_after: 10 }",
        ),
        required(
            "answer",
            Kind::Record(&ANSWER),
            "Where the client is answered, and with what.",
            "{ after: FLIGHT_TICKET, done: 201, failed: { otherwise: 409 } }",
        ),
        required("steps", Kind::List(&Kind::Record(&STEP_RECORD), MAX_STEPS), "The steps, in order.", "[]"),
        optional("tests", Kind::List(&Kind::Record(&TEST), 100), "Tests, run by `sagactl flow check`.", "[]"),
    ],
};
