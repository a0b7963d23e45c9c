"""An application that tells what it was asked: method, path, and how much of a body it has read.

Run by gunicorn with threads (`gunicorn -k gthread upload_app:app`). What is asked for under `/early/` is answered
without reading anything of the body.
"""


def app(environ, start_response):
    early = environ["PATH_INFO"].startswith("/early/")
    read = 0 if early else len(environ["wsgi.input"].read())
    said = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {read}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(said)))])
    return [said]
