//! Links from panels to other pages.

/// From a series with the labels `method` and `route` to the dashboard of the route.
pub(crate) const TO_ROUTE: &str = "/d/event-loop-route?\
    ${datasource:queryparam}&${job:queryparam}&${instance:queryparam}\
    &var-method=${__field.labels.method}&var-route=${__field.labels.route:percentencode}\
    &${__url_time_range}";
/// From a row with the columns Method and Route to the dashboard of the route.
pub(crate) const ROW_TO_ROUTE: &str = "/d/event-loop-route?\
    ${datasource:queryparam}&${job:queryparam}&${instance:queryparam}\
    &var-method=${__data.fields.Method}&var-route=${__data.fields.Route:percentencode}\
    &${__url_time_range}";
/// From a row with the columns Job and Instance to the dashboard of the instance.
pub(crate) const ROW_TO_INSTANCE: &str = "/d/event-loop-instance?${datasource:queryparam}\
    &var-job=${__data.fields.Job:percentencode}\
    &var-instance=${__data.fields.Instance:percentencode}&${__url_time_range}";
/// From a row with the column Instance to the stall reports of that process, if it serves them
/// (`Server::show`).
pub(crate) const ROW_TO_STALLS: &str = "http://${__data.fields.Instance}/stalls";
/// From a series with the label `instance` to the stall reports of that process.
pub(crate) const TO_STALLS: &str = "http://${__field.labels.instance}/stalls";
