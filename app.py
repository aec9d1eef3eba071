"""Launches the page; see `lumiere/page/server/launch.py`.

    python app.py                              embedded model, http://127.0.0.1:7860
    python app.py --model sd15-animatediff     another model (see --help); repeatable, one page each
    python app.py --showcase                   kiosk: large clip, rotating prompts
    python app.py --mcp                        endpoints also as MCP tools.
GRADIO_SERVER_NAME and GRADIO_SERVER_PORT set the address; `lumiere/limits.py` lists the server limits.
"""

from lumiere.page.server.launch import main

if __name__ == "__main__":
    main()
