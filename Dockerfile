# docker build -t lumiere . && docker run -p 7860:7860 lumiere
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/app
ENV PATH=/home/user/.local/bin:$PATH \
    HF_HOME=/home/user/.cache/huggingface \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860

# The CPU build; for a GPU --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128, and --gpus all.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --chown=user requirements.txt .
RUN pip install --no-cache-dir --user --extra-index-url "$TORCH_INDEX" -r requirements.txt

COPY --chown=user . .
RUN mkdir -p /home/user/.cache/huggingface
VOLUME /home/user/.cache/huggingface
EXPOSE 7860
CMD ["python", "app.py"]
