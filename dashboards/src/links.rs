//! Where clicks lead.

/// From a series to its route.
pub(crate) const TO_ROUTE: &str = "/d/event-loop-route?${datasource:queryparam}&${job:queryparam}&${instance:queryparam}\
    &var-method=${__field.labels.method}&var-route=${__field.labels.route:percentencode}&${__url_time_range}";
/// From a row with the columns Method and Route.
pub(crate) const ROW_TO_ROUTE: &str = "/d/event-loop-route?${datasource:queryparam}&${job:queryparam}&${instance:queryparam}\
    &var-method=${__data.fields.Method}&var-route=${__data.fields.Route:percentencode}&${__url_time_range}";
/// From a row with the columns Job and Instance.
pub(crate) const ROW_TO_INSTANCE: &str = "/d/event-loop-instance?${datasource:queryparam}\
    &var-job=${__data.fields.Job:percentencode}&var-instance=${__data.fields.Instance:percentencode}&${__url_time_range}";
/// From a row with the column Instance to the reports of that process, where it shows them (`Server::show_stalls`).
pub(crate) const ROW_TO_STALLS: &str = "http://${__data.fields.Instance}/stalls";
pub(crate) const TO_STALLS: &str = "http://${__field.labels.instance}/stalls";
