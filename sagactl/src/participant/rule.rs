//! What is demanded of a participant, in the words of its author.

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $demand:literal, $mend:literal;)+) => {
        /// One demand. Its name is stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $($(#[$doc])* $name,)+
        }

        impl Rule {
            /// In the order in which they are reported.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $id),+ }
            }

            /// What has to hold.
            pub const fn demand(self) -> &'static str {
                match self { $(Self::$name => $demand),+ }
            }

            /// How to mend a participant that does not keep it.
            pub const fn mend(self) -> &'static str {
                match self { $(Self::$name => $mend),+ }
            }
        }
    };
}

rules! {
    Answered = "answered",
        "A command is answered.",
        "Consume the command's topic in a group, from `earliest`. Send the reply with acks=all, and commit the offset only after Kafka has acknowledged it.";
    Envelope = "envelope",
        "A reply names the command and the saga that it answers.",
        "Copy sagaId and the subject from the command. causationId is the command's eventId, eventId a UUID, timestamp RFC 3339, payload an object; the headers ce_type and ce_id name the event and repeat eventId.";
    Event = "event",
        "A reply is an event that the flow knows at this step.",
        "Put one of the step's events into the header ce_type, spelled as in the flow file, and send it to the topic that the flow's replies go to.";
    Key = "key",
        "A reply's key is the saga's id.",
        "Produce the reply with the command's sagaId, as a text, as its key.";
    Partition = "partition",
        "A reply goes to the partition that its key belongs to: murmur2, as Java's clients have it.",
        "Let the client choose the partition by murmur2 over the key. For librdkafka that is `partitioner=murmur2_random`; its default is another hash.";
    Shape = "shape",
        "A reply has the fields that the flow reads of it.",
        "Write each field that stands under `reply` in the flow file, with its type.";
    Agrees = "agrees",
        "The money in a reply is the money that was asked about.",
        "Answer with `money` as it was charged or refunded. If that can't be what the command names, send no reply.";
    Repeat = "repeat",
        "The same command again gets the same reply, byte for byte, with the same eventId.",
        "Store the decision under the subject, in a transaction, and make the reply from the command and the stored row alone: eventId from the command's eventId (UUIDv5), timestamp and references from the row.";
    Contradiction = "contradiction",
        "A command that contradicts the first one for its subject changes nothing.",
        "Store what was asked beside the decision. A command that names another saga or other contents is logged and gets no reply (or the stored reply); never a second effect, and never a refusal, which would mean that nothing is held.";
    UnknownFields = "unknown-fields",
        "Fields that the participant does not know are ignored.",
        "Read the fields that are needed and skip all others, in the envelope and in the payload.";
    Undo = "undo",
        "An undo after its action is answered as done.",
        "Undo what the row says, store that, and answer with the undo's event.";
    UndoRepeat = "undo-repeat",
        "The same undo again gets the same reply, byte for byte.",
        "Answer a repeated undo from the stored row, as done, and undo nothing twice.";
    LateAction = "late-action",
        "The action is refused once it was undone.",
        "Keep the row of what was undone. An action that finds it is answered with the step's refusal.";
    UndoFirst = "undo-first",
        "An undo that comes before its action is answered as done, and the action is then refused.",
        "Where an undo finds no row, store one all the same (a tombstone). An action that finds it is answered with the step's refusal.";
    Poison = "poison",
        "A record that is no command does not stop what stands behind it.",
        "Catch whatever goes wrong while a record is read, log it, and commit its offset.";
    Restart = "restart",
        "A participant that is killed between command and reply gives the reply after its start, and no other one than before.",
        "Commit the decision before the reply is sent, and the offset after the reply was acknowledged.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_on_the_page_with_its_name_and_its_demand() {
        let page = include_str!("../../../docs/participants.md");
        for rule in Rule::ALL {
            assert!(page.contains(&format!("| `{}` | {} |", rule.name(), rule.demand())), "{}", rule.name());
        }
    }
}
