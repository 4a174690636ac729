//! What the description of the HTTP interface has of a flow: the route that starts its sagas, with the request that it
//! takes and its answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use flow::Flow;
use flow::sample::example;
use messages::schema::one_of;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response};

use crate::views::list::STATUSES;

/// The route of all flows: what is said there of parameters, headers and errors holds for each.
const GENERAL: &str = "/flows/{name}";

const JSON: &str = "application/json";

/// Adds the routes of these flows.
pub fn add(document: &mut OpenApi, flows: &[Arc<Flow>]) {
    let general = document.paths.paths.get(GENERAL).cloned().unwrap_or_default();
    let components = document.components.get_or_insert_default();
    for flow in flows {
        components.schemas.insert(request_name(flow), flow.request_schema().into());
        components.schemas.insert(answer_name(flow), answer(flow).into());
        document.paths.paths.insert(format!("/flows/{}", flow.name), route(general.clone(), flow));
    }
}

/// A point that no other schema has in its name keeps them apart.
fn request_name(flow: &Flow) -> String {
    format!("{}.request", flow.name)
}

fn answer_name(flow: &Flow) -> String {
    format!("{}.answer", flow.name)
}

fn route(mut route: PathItem, flow: &Flow) -> PathItem {
    for operation in [&mut route.get, &mut route.post].into_iter().flatten() {
        let is_in_path = |parameter: &RefOr<_>| {
            matches!(parameter, RefOr::T(utoipa::openapi::path::Parameter { parameter_in: ParameterIn::Path, .. }))
        };
        operation.parameters.iter_mut().for_each(|parameters| parameters.retain(|parameter| !is_in_path(parameter)));
        operation.operation_id = operation.operation_id.take().map(|id| format!("{id}-{}", flow.name));
    }
    if let Some(start) = &mut route.post {
        self::start(start, flow);
    }
    if let Some(read) = &mut route.get {
        read.summary = Some(format!("The versions of {}, and what was done with them", flow.name));
    }
    route
}

fn start(start: &mut Operation, flow: &Flow) {
    let name = format!("{} v{}", flow.name, flow.version);
    let steps: Vec<_> = flow.steps.iter().map(|step| format!("`{}`", step.name)).collect();
    start.summary = Some(format!("Start a saga of {name}, and report its outcome"));
    start.description = Some(format!("Its steps: {}.", steps.join(", ")));
    if let Some(RefOr::T(body)) = &mut start.request_body {
        let mut content = Content::new(Some(Ref::from_schema_name(request_name(flow))));
        content.example = example(flow).ok().and_then(|json| serde_json::from_str(&json).ok());
        body.content.insert(JSON.to_owned(), content.into());
        body.description = Some(format!("The `start.input` of {name}"));
    }
    let responses = &mut start.responses.responses;
    let mut general = |status: &str| match responses.remove(status) {
        Some(RefOr::T(response)) => response,
        _ => Response::default(),
    };
    let [outcome, pending, _failed] = ["200", "202", "409"].map(&mut general);
    let done = match flow.answers_early() {
        true => {
            format!("{} is done; `final` says whether the saga can still turn back", flow.steps[flow.answer.after].name)
        }
        false => "COMPLETED".to_owned(),
    };
    let mut answers = vec![(202, pending), (flow.answer.done, about(&outcome, done))];
    for (status, causes) in failures(flow) {
        answers.push((status, about(&outcome, format!("FAILED, and all is undone: {}", causes.join(", ")))));
    }
    for (status, mut answer) in answers {
        let content = Content::new(Some(Ref::from_schema_name(answer_name(flow))));
        answer.content.insert(JSON.to_owned(), content.into());
        match responses.get_mut(&status.to_string()) {
            // Some errors have this status as well.
            Some(RefOr::T(other)) => {
                other.description = format!("{}. Or: {}", answer.description, other.description);
                other.headers.extend(answer.headers);
                other.content.extend(answer.content);
            }
            _ => drop(responses.insert(status.to_string(), answer.into())),
        }
    }
}

fn about(response: &Response, description: String) -> Response {
    let mut response = response.clone();
    response.description = description;
    response
}

/// The statuses of sagas that failed, with their causes.
fn failures(flow: &Flow) -> BTreeMap<u16, Vec<String>> {
    let mut failures: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for cause in &flow.causes {
        failures.entry(flow.failed_status(cause)).or_default().push(format!("`{cause}`"));
    }
    failures
}

/// A saga as its client sees it: [`FlowOutcome`](crate::saga::FlowOutcome).
fn answer(flow: &Flow) -> Schema {
    let string = || ObjectBuilder::new().schema_type(Type::String);
    let causes: Vec<_> = flow.causes.iter().map(|cause| format!("`{cause}`")).collect();
    let step = format!("The step that is pending, `COMPLETED`, or why it failed: {}.", causes.join(", "));
    let subject = string().format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
    let null = || ObjectBuilder::new().schema_type(Type::Null);
    let result = match flow.result_schema() {
        Some(result) => AnyOfBuilder::new().item(result).item(null()).into(),
        None => RefOr::from(null()),
    };
    let reference = |name: &str| RefOr::from(Ref::from_schema_name(name));
    let reason = string().schema_type(SchemaType::from_iter([Type::String, Type::Null]));
    let mut fields: Vec<(&str, RefOr<Schema>)> = vec![
        ("sagaId", reference("SagaId")),
        ("flow", one_of([flow.name.as_str()]).into()),
        ("version", ObjectBuilder::new().schema_type(Type::Integer).description(Some("By which it runs.")).into()),
        (&flow.start.subject, subject.description(Some("What the saga is about.")).into()),
        ("status", one_of(STATUSES).into()),
        ("step", string().description(Some(step)).into()),
        ("reason", reason.description(Some("Why it failed, in words.")).into()),
        ("owner", reference("UserId")),
        ("result", result),
        ("createdAt", reference("TimestampText")),
        ("updatedAt", reference("TimestampText")),
    ];
    if flow.answers_early() {
        let about = "Nothing turns the saga back any more.";
        fields.push(("final", ObjectBuilder::new().schema_type(Type::Boolean).description(Some(about)).into()));
    }
    let object = ObjectBuilder::new().description(Some(format!(
        "A saga of {}: how far it is, or how it ended. A request that is repeated is answered by the version that its saga runs by.",
        flow.name
    )));
    fields.into_iter().fold(object, |object, (name, schema)| object.property(name, schema).required(name)).into()
}

#[cfg(test)]
mod tests {
    use flow::{Origin, check};
    use serde_json::{Value, json};

    use crate::described;

    fn document(source: &str) -> Value {
        let flow = check(source, Origin::User).unwrap_or_else(|findings| panic!("{findings:?}"));
        serde_json::to_value(described::openapi_of(&[flow])).unwrap()
    }

    #[test]
    fn a_flow_has_a_route_with_the_statuses_of_its_file() {
        let document = document(include_str!("../../examples/trip/trip.v1.yaml"));
        let start = &document["paths"]["/flows/trip"]["post"];

        let statuses: Vec<_> = start["responses"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            statuses,
            ["201", "202", "400", "404", "408", "409", "413", "415", "422", "429", "500", "503", "504"]
        );
        let failed = &start["responses"]["409"]["description"];
        assert_eq!(failed, "FAILED, and all is undone: `HOTEL_FULL`, `NO_CAR`, `NO_SEAT`, `CANCELLED`");
        let body = &start["requestBody"]["content"]["application/json"];
        assert_eq!(body["example"]["traveller"], "ann");
        let request = &document["components"]["schemas"]["trip.request"];
        assert_eq!(request["required"], json!(["traveller", "budget", "from", "to", "out", "back"]));
        assert_eq!(document["components"]["schemas"]["trip.answer"]["properties"]["flow"]["enum"], json!(["trip"]));
        let parameters =
            |method: &str| document["paths"]["/flows/trip"][method]["parameters"].as_array().unwrap().len();
        assert_eq!((parameters("post"), parameters("get")), (2, 0), "its name is in the path");
        assert!(document["paths"]["/flows/{name}"]["post"].is_object(), "the route of all flows stays");
    }

    #[test]
    fn an_outcome_with_the_status_of_an_error_stands_beside_it() {
        let source = include_str!("../../examples/trip/trip.v1.yaml");
        let source = source.replace("TIMED_OUT: 504, otherwise", "TIMED_OUT: 503, otherwise");
        let document = document(&source);
        let answer = &document["paths"]["/flows/trip"]["post"]["responses"]["503"];
        let kinds: Vec<_> = answer["content"].as_object().unwrap().keys().collect();
        assert_eq!(kinds, ["application/json", "application/problem+json"]);
        assert!(answer["description"].as_str().unwrap().starts_with("FAILED, and all is undone: `TIMED_OUT`. Or: "));
    }

    #[test]
    fn each_operation_has_an_id_of_its_own_and_no_reference_leads_nowhere() {
        let document = document(include_str!("../../flow/tests/flows/club.v1.yaml"));
        let mut ids = Vec::new();
        for operation in
            document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values())
        {
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
        }
        assert!(ids.contains(&"startFlow-club".to_owned()) && ids.contains(&"readFlow-club".to_owned()), "{ids:?}");
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
        let text = document.to_string();
        let references: Vec<_> =
            text.split(r##""$ref":"#"##).skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(references.contains(&"/components/schemas/club.answer"));
        for reference in references {
            assert!(document.pointer(reference).is_some_and(Value::is_object), "{reference}");
        }
    }
}
