-- Makes wrk end with one line of JSON. `done` runs after the load: it costs nothing while measuring.
function done(summary)
    local errors = summary.errors
    io.write(string.format(
        '{"requests":%d,"bytes":%d,"microseconds":%d,"bad_status":%d,"socket_errors":%d}\n',
        summary.requests, summary.bytes, summary.duration, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout))
end
