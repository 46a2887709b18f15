// "Watch it learn": one slider turns all samples to the same epoch. Without scripts the last epoch stays visible.
(function () {
  var box = document.getElementById("learn");
  if (!box) return;
  var slider = box.querySelector("input"), label = box.querySelector("output"), button = box.querySelector("button");
  var frames = Array.prototype.slice.call(box.querySelectorAll("img[data-step]"));
  var epochs = slider.getAttribute("data-epochs").split(",");
  var timer = null;
  function show(i) {
    slider.value = i;
    label.textContent = "epoch " + epochs[i];
    slider.setAttribute("aria-valuetext", label.textContent);
    frames.forEach(function (f) { f.classList.toggle("on", +f.getAttribute("data-step") === i); });
  }
  function stop() { clearInterval(timer); timer = null; button.textContent = "Play"; }
  function next() {
    if (+slider.value + 1 >= epochs.length) stop();
    else show(+slider.value + 1);
  }
  slider.addEventListener("input", function () { stop(); show(+slider.value); });
  button.addEventListener("click", function () {
    if (timer) return stop();
    if (+slider.value + 1 >= epochs.length) show(0);
    button.textContent = "Stop";
    timer = setInterval(next, 700);
  });
  box.classList.add("live");
  show(epochs.length - 1);
})();
