"""A server that watches videos once and answers questions about them over HTTP.

    request --app--> checked words and files --queue--> one engine thread --> events --> response

Nothing but the engine thread touches the model; all before it holds texts, paths and numbers.
"""
