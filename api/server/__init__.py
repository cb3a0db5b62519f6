"""The HTTP server: accepts connections, limits them in number and time, and refuses ambiguous requests.

uvicorn parses HTTP and runs the application. It has neither a time limit for headers, bodies and unread responses nor
a limit of connections, and asyncio logs each failed ``accept`` of a whole backlog; this package adds them.
"""
