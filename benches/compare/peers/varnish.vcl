# Varnish as a cache: everything is looked up and kept as its origin says; nothing of the built-in rules for cookies and
# methods is needed here. Its log in shared memory is masked by the command line that starts it (peers.py).
vcl 4.1;
backend origin {
    .host = "127.0.0.1";
    .port = "@ORIGIN@";
}
sub vcl_recv {
    if (req.url ~ "^/passed/") {
        return (pass);
    }
    return (hash);
}
